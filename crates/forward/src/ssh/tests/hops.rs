//! Servers on the way to others.

use super::*;

/// A server that is reached through the bed's, by that name.
async fn behind(bed: &Bed, number: usize) -> (Sshd, SshServer) {
    let sshd = Sshd::start(&[]).await;
    let known = bed.sshd.path(&format!("known_{number}"));
    let both = [bed.sshd.known_hosts(), sshd.known_hosts()].map(|file| std::fs::read_to_string(file).unwrap());
    std::fs::write(&known, both.concat()).unwrap();
    let config = bed.sshd.path("hops_config");
    let lines = format!(
        "Host hop\n  HostName 127.0.0.1\n  Port {}\n  User {}\n  IdentityFile {}\nHost *\n  IdentityAgent none\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n",
        bed.sshd.addr().port(),
        bed.sshd.user(),
        bed.sshd.key().display(),
        bed.sshd.known_hosts().display(),
    );
    std::fs::write(&config, lines).unwrap();
    let options = SshOptions {
        key: Some(sshd.key()),
        config: Some(config),
        jump: Some("hop".to_owned()),
        ..SshOptions::default()
    };
    let server = SshServer::parse(&format!("{}@{}", sshd.user(), sshd.addr())).unwrap().with(options);
    // One file for both: a hop is the same one for all who name the same files.
    std::fs::copy(&known, bed.sshd.known_hosts()).unwrap();
    (sshd, server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_who_wants_a_forward_anew_is_not_made_to_wait_for_what_a_hop_refused() {
    let bed = Bed::new(Limits::default()).await;
    let (sshd, server) = behind(&bed, 1).await;
    std::fs::write(bed.sshd.path("authorized"), "").unwrap();
    let refused = async |bastion: &Arc<Bastion>| {
        let opened = bed.open(bastion, bed.origin.addr().port()).await;
        assert!(matches!(opened, Err(OpenedVia::Ssh(error)) if error.is_login()));
    };
    let bastion = bed.servers.bastion(&server);
    refused(&bastion).await;
    refused(&bastion).await;
    assert_eq!(bed.sshd.connections(), 1, "{}", bed.sshd.log());
    bed.servers.prove(&server);
    refused(&bastion).await;
    assert_eq!(bed.sshd.connections(), 2, "the hop is asked again");
    // The same where nobody uses the server at the moment.
    drop(bastion);
    bed.sshd.authorize(&bed.sshd.key());
    bed.servers.prove(&server);
    trip(&mut bed.say(&bed.servers.bastion(&server), "echo\n").await, b"let in").await;
    assert_eq!((bed.sshd.logins(), sshd.logins()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_behind_one_hop_and_their_later_logins_share_its_login() {
    let bed = Bed::new(Limits::default()).await;
    let (one, first) = behind(&bed, 1).await;
    let (other, second) = behind(&bed, 2).await;
    let (first, second) = (bed.servers.bastion(&first), bed.servers.bastion(&second));
    trip(&mut bed.say(&first, "echo\n").await, b"one").await;
    trip(&mut bed.say(&second, "echo\n").await, b"the other").await;
    other.drop_connections();
    within(second.lost()).await;
    trip(&mut bed.say(&second, "echo\n").await, b"again").await;
    assert_eq!((bed.sshd.logins(), one.logins(), other.logins()), (1, 1, 2));
    // What leads over a network that is gone is left, hops too.
    bed.servers.wake();
    trip(&mut bed.say(&first, "echo\n").await, b"anew").await;
    trip(&mut bed.say(&second, "echo\n").await, b"anew").await;
    assert_eq!((bed.sshd.logins(), one.logins(), other.logins()), (2, 2, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hop_whose_key_is_written_to_its_own_file_is_used_at_once() {
    let bed = Bed::new(Limits::default()).await;
    let (_sshd, server) = behind(&bed, 1).await;
    let (own, config) = (bed.sshd.path("known_hop"), bed.sshd.path("hops_config"));
    std::fs::write(&own, "").unwrap();
    let lines = std::fs::read_to_string(&config).unwrap();
    let hop = format!("Host hop\n  UserKnownHostsFile {}\n", own.display());
    std::fs::write(&config, lines.replacen("Host hop\n", &hop, 1)).unwrap();
    let bastion = bed.servers.bastion(&server);
    let refused = bed.open(&bastion, bed.origin.addr().port()).await;
    assert!(matches!(refused, Err(OpenedVia::Ssh(error)) if error.is_host_key()));
    std::fs::copy(bed.sshd.known_hosts(), &own).unwrap();
    // Not the half minute of a key that is not believed.
    within(async {
        while bastion.open(&bed.scope, "127.0.0.1", bed.origin.addr().port(), DEADLINE).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// How much of each stream came within a time.
async fn progress(streams: &mut [Io], time: Duration) -> Vec<usize> {
    let reading = streams.iter_mut().map(async |io| {
        let (mut piece, mut sum, end) = (vec![0; 64 * 1024], 0, tokio::time::Instant::now() + time);
        while let Ok(Ok(got @ 1..)) = tokio::time::timeout_at(end, io.read(&mut piece)).await {
            sum += got;
        }
        sum
    });
    futures_util::future::join_all(reading).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_and_many_downloads_through_a_hop_that_is_far_away_do_not_stop_each_other() {
    // Less than the windows of all of them, as it is with the usual limit and more streams.
    let bed = Bed::new(Limits { total: 8 * 1024 * 1024, ..Limits::default() }).await;
    let wire = testkit::relay::Link::round_trip(Duration::from_millis(200));
    let relay = testkit::relay::Relay::start(bed.sshd.addr(), wire).await.unwrap();
    let (_sshd, server) = behind(&bed, 1).await;
    let config = bed.sshd.path("hops_config");
    let lines = std::fs::read_to_string(&config).unwrap();
    let port = |port: u16| format!("  Port {port}\n");
    let far = format!("{}  HostKeyAlias {}\n", port(relay.addr().port()), bed.sshd.known_name());
    std::fs::write(&config, lines.replace(&port(bed.sshd.addr().port()), &far)).unwrap();
    let bastion = bed.servers.bastion(&server);
    let open = async || match bed.open(&bastion, bed.origin.addr().port()).await {
        Ok(io) => io,
        Err(_) => panic!("a stream"),
    };
    let mut upload = open().await;
    let mut downloads = Vec::new();
    for _ in 0..12 {
        downloads.push(open().await);
    }
    within(upload.write_all(b"sink\n")).await.unwrap();
    for download in &mut downloads {
        within(download.write_all(b"source\n")).await.unwrap();
    }
    let (_read, mut write) = tokio::io::split(upload);
    let piece = vec![7; 1024 * 1024];
    let uploaded = std::cell::Cell::new(0);
    let sending = async {
        while let Ok(sent) = write.write(&piece).await {
            uploaded.set(uploaded.get() + sent);
        }
        uploaded.get()
    };
    let (sent, came) = (std::pin::pin!(sending), async {
        let first = progress(&mut downloads, Duration::from_secs(12)).await;
        let before = uploaded.get();
        let then = progress(&mut downloads, Duration::from_secs(4)).await;
        (first, then, uploaded.get() - before)
    });
    let (first, then, up) = tokio::select! {
        sent = sent => panic!("the upload broke after {sent} bytes"),
        came = came => came,
    };
    assert!(then.iter().all(|got| *got > 0), "they go on: {first:?}, then {then:?}");
    assert!(up > 0, "so does the upload: {} bytes", uploaded.get());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_a_hop_refuses_is_told_with_whose_keys_it_goes_by() {
    let bed = Bed::new(Limits::default()).await;
    let (_sshd, server) = behind(&bed, 1).await;
    std::fs::write(bed.sshd.path("authorized"), "").unwrap();
    let Err(OpenedVia::Ssh(error)) = bed.open(&bed.servers.bastion(&server), bed.origin.addr().port()).await else {
        panic!("it is refused")
    };
    let hint = adit_core::diagnose::Diagnose::hint(&error).unwrap();
    assert!(hint.contains("is a jump here") && hint.contains("IdentityFile"), "{hint}");
}
