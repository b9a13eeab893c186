// The demo page's behaviour. Whatever comes from the network is shown as text, never as markup.
"use strict";

const $ = (id) => document.getElementById(id);

const milliseconds = (value) => (value < 10 ? value.toFixed(2) : value.toFixed(value < 100 ? 1 : 0)) + " ms";

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return (unit === 0 || count >= 100 ? count.toFixed(0) : count.toFixed(1)) + " " + units[unit];
}

const rate = (count, ms) => (ms > 0 ? bytes(count / (ms / 1000)) + "/s" : "at once");

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function pill(id, state, text) {
  const shown = $(id);
  if (shown.textContent === text) return;
  shown.className = "pill " + state;
  shown.textContent = text;
}

function log(list, what, number, limit) {
  const line = element("li");
  line.append(element("span", "what", what), element("span", "number", number));
  list.prepend(line);
  while (list.children.length > limit) list.lastChild.remove();
}

// ---- the request -------------------------------------------------------------------------------

const SET_BY_ADIT = /^(x-forwarded-|forwarded$|x-real-ip$|x-request-id$)/;

function showRequest(facts) {
  $("request-line").textContent = `${facts.method} ${facts.path} ${facts.http_version}`;
  $("fact-visitor").textContent = facts.visitor || "unknown";
  $("fact-peer").textContent = facts.peer;
  $("fact-id").textContent = facts.request_id;
  $("fact-body").textContent = facts.body_bytes ? bytes(facts.body_bytes) : "none";
  const ours = facts.headers.filter(([name]) => SET_BY_ADIT.test(name));
  const others = facts.headers.filter(([name]) => !SET_BY_ADIT.test(name));
  const rows = [...ours, ...others].map(([name, value]) => {
    const row = element("tr", SET_BY_ADIT.test(name) ? "set-by-adit" : "");
    const head = element("th", "", name);
    head.scope = "row";
    row.append(head, element("td", "", value));
    return row;
  });
  $("headers").replaceChildren(...rows);
}

async function sendAnother(event) {
  event.preventDefault();
  const method = $("again-method").value;
  let path = $("again-path").value.trim();
  if (!path.startsWith("/api/inspect")) path = "/api/inspect/" + path.replace(/^\/+/, "");
  const body = method === "POST" || method === "PUT" ? "a few bytes from the demo page" : undefined;
  const begin = performance.now();
  try {
    const answer = await fetch(path, { method, body, cache: "no-store" });
    const ms = performance.now() - begin;
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    const facts = await answer.json();
    showRequest(facts);
    const url = new URL(path, location.href).href;
    const entry = performance.getEntriesByName(url, "resource").pop();
    const total = entry && entry.responseStart > 0 ? entry.responseStart - entry.requestStart : ms;
    const parts = parseServerTiming(answer.headers.get("server-timing"));
    showTiming(total, await hopsOf(facts.request_id, parts));
  } catch (error) {
    $("request-line").textContent = `${method} ${path} failed: ${error.message}`;
  }
}

// ---- timing ------------------------------------------------------------------------------------

const HOP_NAMES = {
  queue: "server: waiting",
  open: "server → agent",
  agent: "agent",
  local: "local service",
};

function parseServerTiming(header) {
  if (!header) return [];
  return header.split(",").map((item) => {
    const [name, ...fields] = item.trim().split(";").map((field) => field.trim());
    const found = fields.find((field) => field.startsWith("dur="));
    return { name: HOP_NAMES[name] || name, ms: found ? Number(found.slice(4)) : 0 };
  });
}

// What the tunnel itself measured, if it tells; else what the answer's Server-Timing header says.
async function hopsOf(id, otherwise) {
  try {
    const answer = await fetch("/api/hops?id=" + encodeURIComponent(id), { cache: "no-store" });
    const { hops } = await answer.json();
    return hops.length > 0 ? hops : otherwise;
  } catch {
    return otherwise;
  }
}

function showTiming(total, hops) {
  const known = hops.filter((hop) => hop.ms > 0);
  const sum = known.reduce((before, hop) => before + hop.ms, 0);
  const rest = known.length > 0 ? "everything else: browser, sockets, hand-over" : "there and back";
  const parts = [...known, { name: rest, ms: Math.max(total - sum, 0), rest: true }];
  $("timing-total").textContent = milliseconds(Math.max(total, sum));
  const color = (part, index) => "hop-" + (part.rest ? 0 : (index % 5) + 1);
  $("timing-bar").replaceChildren(...parts.map((part, index) => {
    const piece = element("div", color(part, index));
    piece.style.flexGrow = String(part.ms);
    piece.title = `${part.name}: ${milliseconds(part.ms)}`;
    return piece;
  }));
  $("timing-legend").replaceChildren(...parts.map((part, index) => {
    const line = element("li");
    line.append(element("i", color(part, index)), part.name, element("b", "", milliseconds(part.ms)));
    return line;
  }));
}

async function showPageTiming() {
  const entry = performance.getEntriesByType("navigation")[0];
  if (!entry) return;
  const parts = (entry.serverTiming || []).map(({ name, duration }) => ({ name: HOP_NAMES[name] || name, ms: duration }));
  const hops = await hopsOf(document.body.dataset.requestId, parts);
  showTiming(entry.responseStart - entry.requestStart, hops);
}

// ---- events ------------------------------------------------------------------------------------

function uptime(ms) {
  const seconds = Math.floor(ms / 1000);
  const minutes = Math.floor(seconds / 60);
  return minutes > 0 ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}

function watchEvents() {
  const seen = [];
  let before = null;
  const source = new EventSource("/api/events");
  source.addEventListener("open", () => pill("events-state", "good", "connected"));
  source.addEventListener("error", () => pill("events-state", "bad", "lost, trying again"));
  source.addEventListener("tick", (event) => {
    const tick = JSON.parse(event.data);
    $("events-requests").textContent = tick.requests.toLocaleString("en");
    $("events-uptime").textContent = uptime(tick.uptime_ms);
    for (const one of tick.recent) {
      log($("events-log"), `${one.status} ${one.method} ${one.path}`, milliseconds(one.ms), 5);
    }
    if (before !== null) seen.push(Math.max(tick.requests - before, 0));
    before = tick.requests;
    if (seen.length > 60) seen.shift();
    const most = Math.max(...seen, 4);
    const at = (value, index) => `${((index + 60 - seen.length) * 120) / 59},${30 - (value / most) * 28}`;
    $("events-spark").setAttribute("points", seen.map(at).join(" "));
  });
}

// ---- echo --------------------------------------------------------------------------------------

const echo = { socket: null, waiting: [], times: [] };

function connectEcho() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}/api/ws`);
  echo.socket = socket;
  socket.addEventListener("open", () => {
    pill("echo-state", "good", "connected");
    if (echo.times.length === 0) sendEcho($("echo-text").value);
  });
  socket.addEventListener("close", () => {
    pill("echo-state", "bad", "closed, trying again");
    echo.waiting = [];
    setTimeout(connectEcho, 1000);
  });
  socket.addEventListener("message", (event) => {
    const sent = echo.waiting.shift();
    if (sent === undefined) return;
    const ms = performance.now() - sent;
    echo.times.push(ms);
    log($("echo-log"), String(event.data), milliseconds(ms), 5);
    if (echo.waiting.length === 0) showEcho();
  });
}

function showEcho() {
  const sorted = [...echo.times].sort((a, b) => a - b);
  const at = (share) => milliseconds(sorted[Math.min(Math.floor(sorted.length * share), sorted.length - 1)]);
  const noun = sorted.length === 1 ? "message" : "messages";
  $("echo-summary").textContent = `${sorted.length} ${noun}: median ${at(0.5)}, 99 of 100 within ${at(0.99)}`;
}

function sendEcho(text) {
  if (!echo.socket || echo.socket.readyState !== WebSocket.OPEN) return false;
  echo.waiting.push(performance.now());
  echo.socket.send(text);
  return true;
}

// One at a time, so that each time is that of the way and not of a queue.
function sendMany(count) {
  if (count === 0 || !sendEcho(`message ${count}`)) return;
  echo.socket.addEventListener("message", () => setTimeout(sendMany, 0, count - 1), { once: true });
}

// ---- upload and download -----------------------------------------------------------------------

async function sha256(blob) {
  if (!window.crypto || !crypto.subtle || blob.size > 256 * 1024 * 1024) return null;
  const digest = await crypto.subtle.digest("SHA-256", await blob.arrayBuffer());
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function upload(blob) {
  const request = new XMLHttpRequest();
  const begin = performance.now();
  request.open("POST", "/api/upload");
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.upload.addEventListener("progress", (event) => {
    if (event.lengthComputable && event.total > 0) $("upload-progress").value = event.loaded / event.total;
    $("upload-result").textContent = `${bytes(event.loaded)} sent, ${rate(event.loaded, performance.now() - begin)}`;
  });
  request.addEventListener("load", async () => {
    if (request.status !== 200) return uploadFailed(`${request.status} ${request.statusText}`);
    const ms = performance.now() - begin;
    const answer = JSON.parse(request.responseText);
    const own = await sha256(blob);
    const same = own === null ? "" : own === answer.sha256 ? "; SHA-256 is the same on both ends" : "; SHA-256 DIFFERS";
    $("upload-progress").value = 1;
    $("upload-result").textContent = `${bytes(answer.bytes)} in ${milliseconds(ms)}, ${rate(answer.bytes, ms)}${same}`;
  });
  request.addEventListener("error", () => uploadFailed("the connection was lost"));
  request.send(blob);
}

function uploadFailed(why) {
  $("upload-progress").value = 0;
  $("upload-result").textContent = "failed: " + why;
}

function noise(size) {
  const piece = 65536;
  const parts = [];
  for (let made = 0; made < size; made += piece) parts.push(crypto.getRandomValues(new Uint8Array(piece)));
  return new Blob(parts);
}

async function download(event) {
  event.preventDefault();
  const size = Number($("download-size").value);
  const begin = performance.now();
  let read = 0;
  try {
    const answer = await fetch("/api/download?bytes=" + size, { cache: "no-store" });
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    const reader = answer.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      read += value.length;
      $("download-progress").value = read / size;
    }
    const ms = performance.now() - begin;
    $("download-result").textContent = `${bytes(read)} in ${milliseconds(ms)}, ${rate(read, ms)}`;
  } catch (error) {
    $("download-result").textContent = `failed after ${bytes(read)}: ${error.message}`;
  }
}

// ---- commands ----------------------------------------------------------------------------------

function addCopyButtons() {
  if (!navigator.clipboard) return;
  for (const block of document.querySelectorAll("pre")) {
    const text = block.textContent;
    const button = element("button", "", "Copy");
    button.type = "button";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    block.append(button);
  }
}

$("again").addEventListener("submit", sendAnother);
$("echo-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sendEcho($("echo-text").value);
});
$("echo-many").addEventListener("click", () => sendMany(100));
$("upload-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const file = $("upload-file").files[0];
  if (file) upload(file);
  else $("upload-result").textContent = "Choose a file first.";
});
$("upload-noise").addEventListener("click", () => upload(noise(32 * 1024 * 1024)));
$("download-form").addEventListener("submit", download);
$("download-size").addEventListener("change", () => {
  $("download-link").href = "/api/download?bytes=" + $("download-size").value;
});

addCopyButtons();
watchEvents();
connectEcho();
window.addEventListener("load", () => setTimeout(showPageTiming, 0));
