//! Completion scripts: what clap makes of the commands, and the names of forwards, which only the daemon or the file knows.

use std::time::Duration;

use adit_core::config::AgentFile;
use clap::CommandFactory as _;
use clap_complete::Shell;
use serde_json::Value;

use super::up::daemon::{self, Place};
use super::{Arguments, Global, on_runtime};
use crate::terminal;

/// Whoever has pressed the key waits.
const PATIENCE: Duration = Duration::from_millis(300);

/// For bash: clap's function first, then names where a forward or a tag is meant.
const BASH: &str = r#"_adit_with_names() {
    _adit "$@"
    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" command="" at what="" value IFS=$'\n'
    local -a file=()
    for ((at = 1; at < COMP_CWORD; at++)); do
        case "${COMP_WORDS[at]}" in
            -f|--config)
                # Bash splits --config=FILE in three.
                value="${COMP_WORDS[at+1]}"
                [[ $value == = ]] && value="${COMP_WORDS[at+2]}"
                # As it was typed: what the shell would have done with it is not done yet.
                value="${value//[\"\'\\]/}"
                file=(--config "${value/#~\//$HOME/}") ;;
        esac
    done
    for ((at = 1; at < COMP_CWORD; at++)); do
        case "${COMP_WORDS[at]}" in
            -f|--config|-o|--output|--log-format) ((at++)) ;;
            -*) ;;
            *) command="${COMP_WORDS[at]}"; break ;;
        esac
    done
    case "$command" in
        start|stop|restart|status) what=forwards ;;
        logs) what=logs ;;
        up) what=entrances ;;
        *) return 0 ;;
    esac
    case "$prev" in
        -t|--tag) [[ $command == logs ]] && return 0; what=tags ;;
        -f) [[ $command == logs ]] || return 0 ;;
        --config|-o|--output|--log-format|-n|--lines|--since|--until|-g|--grep|--level) return 0 ;;
    esac
    [[ $cur == -* ]] && return 0
    # Never compgen -W: it would run what stands in a name, and a tag of a file that somebody else wrote may hold anything.
    local name
    COMPREPLY=()
    while IFS= read -r name; do
        [[ $name == "$cur"* ]] && COMPREPLY+=("$(printf %q "$name")")
    done < <("${COMP_WORDS[0]}" complete "$what" "${file[@]}" 2>/dev/null)
}

"#;

/// Where zsh's script begins to run.
const ZSH_START: &str = "\nif [ \"$funcstack[1]\" = \"_adit\" ]; then\n";
/// For zsh: the functions that its specifications name.
const ZSH: &str = r#"
_adit_names() {
    local -a names file line
    local at value
    # Of the whole line: what stands before the command is not among the words here.
    line=(${(z)BUFFER})
    for ((at = 1; at <= $#line; at++)); do
        value=""
        case $line[at] in
            -f|--config) value=${(Q)line[at+1]} ;;
            --config=*) value=${(Q)${line[at]#--config=}} ;;
        esac
        [[ -n $value ]] && file=(--config ${value/#\~\//$HOME/})
    done
    names=(${(f)"$(_call_program names adit complete $1 ${(q)file} 2>/dev/null)"})
    compadd -a names
}
_adit_forwards() { _adit_names forwards }
_adit_entrances() { _adit_names entrances }
_adit_logs() { _adit_names logs }
_adit_tags() { _adit_names tags }
"#;

/// For fish.
const FISH: &str = r#"function __adit_names
    set -l words (commandline -opc)
    set -l file
    for at in (seq (count $words))
        switch $words[$at]
            case -f --config
                set -l next (math $at + 1)
                test $next -le (count $words); and set file --config (string replace -r -- '^~/' "$HOME/" $words[$next])
            case '--config=*'
                set file --config (string replace -- '--config=' '' $words[$at] | string replace -r -- '^~/' "$HOME/")
        end
    end
    adit complete $argv $file 2>/dev/null
end
complete -c adit -n "__fish_adit_using_subcommand start stop restart status" -f -a "(__adit_names forwards)"
complete -c adit -n "__fish_adit_using_subcommand up" -f -a "(__adit_names entrances)"
complete -c adit -n "__fish_adit_using_subcommand logs" -f -a "(__adit_names logs)"
complete -c adit -n "__fish_adit_using_subcommand start stop restart status up" -s t -l tag -x -a "(__adit_names tags)"
"#;

/// Which names are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Names {
    /// Of the daemon's forwards.
    Forwards,
    /// Of what `adit up` may run.
    Entrances,
    /// Tags of forwards.
    Tags,
    /// Logs that there are.
    Logs,
}

/// Prints a completion script.
pub(super) fn script(shell: Shell) {
    terminal::data(&script_of(shell));
}

fn script_of(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "adit", &mut script);
    with_names(shell, &String::from_utf8_lossy(&script))
}

/// The script with what asks for names.
fn with_names(shell: Shell, script: &str) -> String {
    match shell {
        Shell::Bash => {
            let (functions, end) = script.split_at(script.rfind("\nif [[").map_or(script.len(), |at| at + 1));
            format!("{functions}{BASH}{}", end.replace("-F _adit ", "-F _adit_with_names "))
        }
        Shell::Zsh => {
            let mut command = "";
            let lines = script.lines().map(|line| {
                command = line.strip_prefix('(').and_then(|line| line.strip_suffix(')')).unwrap_or(command);
                zsh_line(line.trim_start(), line, command) + "\n"
            });
            let script: String = lines.collect();
            script.replacen(ZSH_START, &format!("{ZSH}{ZSH_START}"), 1)
        }
        Shell::Fish => format!("{script}{FISH}"),
        _ => script.to_owned(),
    }
}

/// A line of zsh's specifications, within the part of a command.
fn zsh_line(start: &str, line: &str, command: &str) -> String {
    let asks = match command {
        "start" | "stop" | "restart" | "status" => "_adit_forwards",
        "up" => "_adit_entrances",
        "logs" => "_adit_logs",
        _ => return line.to_owned(),
    };
    let is_name = start.starts_with("'*::names ") || start.starts_with("'::name ");
    let line = if is_name { line.replace(":_default'", &format!(":{asks}'")) } else { line.to_owned() };
    line.replace(":TAG:_default'", ":TAG:_adit_tags'")
}

/// Prints them; none when nobody knows any: whoever presses a key wants no message.
pub(super) fn names(global: &Global, what: Names) {
    let mut found = found(global, what).unwrap_or_default();
    found.sort();
    found.dedup();
    found.iter().for_each(|name| terminal::data(&format!("{name}\n")));
}

fn found(global: &Global, what: Names) -> Option<Vec<String>> {
    let place = Place::find().ok()?;
    if what == Names::Logs {
        return Some(daemon::log_names(&place));
    }
    let status = match what {
        Names::Entrances => None,
        _ => on_runtime(Some(1), daemon::told(&place, PATIENCE)).ok().flatten(),
    };
    // Of another file than the daemon's it knows nothing.
    let status = status.filter(|status| !daemon::is_of_another_file(global, status));
    match status {
        Some(status) => Some(of_status(&status, what)),
        None => Some(of_file(&file(global)?, what)),
    }
}

/// The file, whatever its variables are: names have none.
fn file(global: &Global) -> Option<AgentFile> {
    let path = super::up::path(global)?;
    let text = super::files::read(&path).ok()?;
    let variable = |name: &str| super::files::environment(name).or_else(|| Some(String::new()));
    AgentFile::parse(&path.display().to_string(), &text, &variable).ok()
}

fn of_status(status: &Value, what: Names) -> Vec<String> {
    let services = status["services"].as_array().into_iter().flatten();
    let texts = |value: &Value| value.as_str().map(str::to_owned).into_iter().collect::<Vec<_>>();
    let of = |one: &Value| match what {
        Names::Tags => one["tags"].as_array().into_iter().flatten().flat_map(texts).collect(),
        Names::Forwards | Names::Entrances | Names::Logs => texts(&one["name"]),
    };
    services.flat_map(of).collect()
}

fn of_file(file: &AgentFile, what: Names) -> Vec<String> {
    let forwards = file.forwards.iter();
    if what == Names::Tags {
        return forwards.flat_map(|forward| forward.tags.clone()).collect();
    }
    let mut names: Vec<String> = forwards.map(|forward| forward.name.clone()).collect();
    if what == Names::Entrances {
        names.extend(file.gateway.iter().map(|_| "gateway".to_owned()));
        names.extend(file.publish.iter().map(|_| "publish".to_owned()));
        names.extend(file.publish.iter().flat_map(|publish| publish.tunnels.iter().map(|tunnel| tunnel.key.clone())));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_asks_for_names_where_a_forward_is_meant() {
        let bash = script_of(Shell::Bash);
        assert!(bash.contains("\n_adit_with_names() {") && !bash.contains("complete -F _adit "), "{bash}");
        assert_eq!(bash.matches("complete -F _adit_with_names ").count(), 2);
        let zsh = script_of(Shell::Zsh);
        assert_eq!(zsh.matches(":_adit_forwards'").count(), 4, "start, stop, restart, status");
        assert!(zsh.contains(":_adit_logs'") && zsh.contains("_adit_logs() {") && zsh.contains(":TAG:_adit_tags'"));
        assert!(!zsh.contains("Forwards by name:_default"), "{zsh}");
        let fish = script_of(Shell::Fish);
        assert!(
            fish.contains("using_subcommand start stop restart status\" -f -a \"(__adit_names forwards)"),
            "{fish}"
        );
    }

    #[test]
    fn a_name_of_the_file_is_never_run_by_bash() {
        let dir = tempfile::tempdir().unwrap();
        let marks = dir.path().join("run");
        let script = format!(
            "adit() {{ printf '%s\\n' 'web' '$(touch {mark})' '`touch {mark}`' 'we;touch {mark}'; }}\n_adit() {{ :; }}\n{BASH}\n\
             COMP_WORDS=(adit start --tag \"$1\") COMP_CWORD=3; _adit_with_names; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            mark = marks.display()
        );
        let complete = |cur: &str| {
            let output = std::process::Command::new("bash").args(["-c", &script, "bash", cur]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(complete("web"), "web\n");
        assert_eq!(complete("").lines().count(), 4, "{}", complete(""));
        assert!(complete("we").contains("we\\;touch"), "{}", complete("we"));
        assert!(!marks.exists(), "what stood in a name was run");
    }

    #[test]
    fn the_file_that_a_command_line_names_is_asked_for_names() {
        let script = format!(
            "adit() {{ local IFS=' '; printf '%s\\n' \"$*\"; }}\n_adit() {{ :; }}\n{BASH}\n\
             COMP_WORDS=(\"$@\") COMP_CWORD=$(($# - 1)); _adit_with_names; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let asked = |words: &[&str]| {
            let mut command = std::process::Command::new("bash");
            command.env("HOME", "/home/me").args(["-c", &script, "bash"]).args(words);
            let output = command.output().unwrap();
            String::from_utf8(output.stdout).unwrap().replace('\\', "").trim().to_owned()
        };
        assert_eq!(asked(&["adit", "start", ""]), "complete forwards");
        let named = "complete forwards --config /home/me/other.yaml";
        for words in [
            ["adit", "--config", "~/other.yaml", "start", ""].as_slice(),
            &["adit", "start", "-f", "~/other.yaml", ""],
            &["adit", "start", "--config", "=", "~/other.yaml", ""],
            &["adit", "start", "-f", "'/home/me/other.yaml'", ""],
        ] {
            assert_eq!(asked(words), named, "{words:?}");
        }
    }

    #[test]
    fn a_file_whose_variables_are_not_set_has_names_all_the_same() {
        let text = "forwards: { db: { to: 1, listen: 1, tags: [x] } }\ngateway: {}\npublish: { server: \"h:1\", tunnels: { shop: { to: 3 } } }\n";
        let file = AgentFile::parse("adit.yaml", text, &|_| Some(String::new())).unwrap();
        assert_eq!(of_file(&file, Names::Forwards), ["db"]);
        assert_eq!(of_file(&file, Names::Tags), ["x"]);
        assert_eq!(of_file(&file, Names::Entrances), ["db", "gateway", "publish", "shop"]);
    }
}
