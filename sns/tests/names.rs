//! The eight requests, over a real link to a real daemon: KTH 3.3.6 and the use cases of 3.2.2
//! that are about names. (Creating, accepting and closing sessions: `tests/names` of the whole.)

mod fixture;

use fixture::*;
use stp_net::key::Identity;
use stp_net::link::Tls;
use stp_proto::lookup::*;

#[tokio::test]
async fn use_case_7_create_endpoint() {
    let daemon = Daemon::start();
    let owner = daemon.client().await;
    let made = owner.ask(new_endpoint("web@example.com", "192.0.2.1", 0)).await;
    assert_eq!(made, Ok(Body::Created(Created { lease_s: 0 })));
    let get = || Ask::GetEndpoint(OneEndpoint { name: endpoint("web@example.com") });
    let anybody = daemon.client().await;
    let Ok(Body::Endpoint(found)) = anybody.ask(get()).await else { panic!("not found") };
    assert_eq!(*found.addresses, ["192.0.2.1".parse::<std::net::IpAddr>().expect("an address")]);
    assert_eq!(found.owner, owner.our_key().0);
    // The alternative path: it exists already, for its owner as well.
    let again = || new_endpoint("web@example.com", "192.0.2.2", 0);
    assert_eq!(refusal(&owner, again()).await, Refusal::Exists);
    assert_eq!(refusal(&anybody, again()).await, Refusal::Exists);
}

#[tokio::test]
async fn use_case_8_close_endpoint() {
    let daemon = Daemon::start();
    let (owner, other) = (daemon.client().await, daemon.client().await);
    owner.ask(new_endpoint("web@example.com", "192.0.2.1", 0)).await.expect("made");
    owner.ask(new_endpoint("web2@example.com", "192.0.2.2", 0)).await.expect("made");
    for (service, port) in [("www.web", 80), ("ftp.web", 21), ("www.web2", 82)] {
        owner.ask(new_service(&format!("{service}@example.com"), port)).await.expect("made");
    }
    let delete = || Ask::DeleteEndpoint(OneEndpoint { name: endpoint("web@example.com") });
    // The alternative path: somebody else's endpoint stays as it is.
    assert_eq!(refusal(&other, delete()).await, Refusal::NotOwner);
    assert_eq!(places(&other, "www.web@example.com").await.len(), 1);
    assert_eq!(owner.ask(delete()).await, Ok(Body::Done(Done)));
    for gone in ["www.web@example.com", "ftp.web@example.com"] {
        assert!(places(&other, gone).await.is_empty(), "{gone}");
    }
    assert_eq!(places(&other, "www.web2@example.com").await.len(), 1, "another's stays");
    assert_eq!(refusal(&owner, delete()).await, Refusal::NotFound);
    // Nothing of the old one is left for a new one.
    other.ask(new_endpoint("web@example.com", "192.0.2.9", 0)).await.expect("free again");
    assert!(places(&other, "www.web@example.com").await.is_empty());
}

#[tokio::test]
async fn use_case_10_create_service() {
    let daemon = Daemon::start();
    let (owner, other) = (daemon.client().await, daemon.client().await);
    let service = || new_service("www.web@example.com", 4433);
    assert_eq!(refusal(&owner, service()).await, Refusal::NotFound, "no endpoint, no service");
    owner.ask(new_endpoint("web@example.com", "192.0.2.1", 0)).await.expect("made");
    assert_eq!(refusal(&other, service()).await, Refusal::NotOwner);
    owner.ask(service()).await.expect("made");
    assert_eq!(
        places(&other, "www.web@example.com").await,
        ["192.0.2.1:4433".parse().expect("an address")]
    );
    // The alternative path: it exists already.
    assert_eq!(refusal(&owner, service()).await, Refusal::Exists);
}

#[tokio::test]
async fn a_service_that_moves_is_found_where_it_is_and_watchers_hear_of_it_at_once() {
    let daemon = Daemon::start();
    let (owner, peer) = (daemon.client().await, daemon.client().await);
    owner.ask(new_endpoint("web@example.com", "192.0.2.1", 0)).await.expect("made");
    owner.ask(new_service("www.web@example.com", 80)).await.expect("made");
    let watch = OneName { name: "www.web@example.com".into(), endpoint: false };
    let mut watch = peer.watch(Ask::Watch(watch)).await.expect("anybody may");
    let addresses = vec!["2001:db8::7".parse().expect("an address")].into();
    let moved = ChangeEndpoint { name: endpoint("web@example.com"), addresses };
    let begun = std::time::Instant::now();
    owner.ask(Ask::ChangeEndpoint(moved)).await.expect("ours");
    let told = watch.changed().await.expect("told").service.expect("a service");
    assert!(begun.elapsed().as_millis() < 500, "{:?}", begun.elapsed());
    assert_eq!(told.places[0].address, "[2001:db8::7]:80".parse().expect("an address"));
    let change = ChangeService {
        name: name("www.web@example.com"),
        port: 8080,
        protocol: Protocol::Session,
        key: [3; 32],
    };
    owner.ask(Ask::ChangeService(change)).await.expect("ours");
    let told = watch.changed().await.expect("told").service.expect("a service");
    assert_eq!((told.places[0].address.port(), told.places[0].key), (8080, [3; 32]));
    owner
        .ask(Ask::DeleteService(OneService { name: name("www.web@example.com") }))
        .await
        .expect("ours");
    assert_eq!(watch.changed().await.expect("told").service, None);
}

#[tokio::test]
async fn a_lease_ends_unless_it_is_renewed_and_takes_the_services_along() {
    let daemon = Daemon::start();
    let owner = daemon.client().await;
    for one in ["a@example.com", "b@example.com"] {
        owner.ask(new_endpoint(one, "192.0.2.1", 2)).await.expect("made");
        owner.ask(new_service(&format!("www.{one}"), 80)).await.expect("made");
    }
    let begun = std::time::Instant::now();
    while begun.elapsed().as_millis() < 3_500 {
        let renew = Ask::Renew(OneEndpoint { name: endpoint("a@example.com") });
        owner.ask(renew).await.expect("it lives");
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    assert_eq!(places(&owner, "www.a@example.com").await.len(), 1);
    assert!(places(&owner, "www.b@example.com").await.is_empty());
    let renew = Ask::Renew(OneEndpoint { name: endpoint("b@example.com") });
    assert_eq!(refusal(&owner, renew).await, Refusal::NotFound);
}

#[tokio::test]
async fn only_those_the_domain_allows_make_names() {
    let allowed = Tls::new(&Identity::generate());
    let domain = format!(
        "[[domain]]\nname = \"example.com\"\ncreators = [\"{}\"]\nusers = [\"alice\"]\n",
        allowed.public_key()
    );
    let daemon = Daemon::start_with(&Extra { domain: &domain, ..Extra::default() });
    daemon.add_user("alice", "/");
    daemon.add_user("bob", "/");
    let stranger = daemon.client().await;
    let make = |text: &str| new_endpoint(text, "192.0.2.1", 0);
    assert_eq!(refusal(&stranger, make("a@example.com")).await, Refusal::NotAllowed);
    assert_eq!(refusal(&stranger, make("a@example.org")).await, Refusal::NotAllowed);
    daemon.connect(&allowed).await.ask(make("b@example.com")).await.expect("its key is listed");
    let tls = Tls::new(&Identity::generate());
    let alice = daemon.login(&tls, "alice").await;
    alice.connection().ask(make("c@example.com")).await.expect("the user is listed");
    let bob = daemon.login(&Tls::new(&Identity::generate()), "bob").await;
    assert_eq!(refusal(bob.connection(), make("d@example.com")).await, Refusal::NotAllowed);
}

#[tokio::test]
async fn who_asks_too_much_is_told_to_wait_and_bounds_hold() {
    let limits = "endpoints_per_key = 3\nwatches_per_link = 2";
    let daemon = Daemon::start_with(&Extra { limits, ..Extra::default() });
    let client = daemon.client().await;
    for index in 0..3 {
        let one = format!("e{index}@example.com");
        client.ask(new_endpoint(&one, "192.0.2.1", 0)).await.expect("below the bound");
    }
    let more = new_endpoint("e3@example.com", "192.0.2.1", 0);
    assert_eq!(refusal(&client, more).await, Refusal::Full);
    let watch = || Ask::Watch(OneName { name: "e0@example.com".into(), endpoint: true });
    let (_a, _b) = (client.watch(watch()).await, client.watch(watch()).await);
    assert_eq!(refusal(&client, watch()).await, Refusal::Full);

    let text = std::fs::read_to_string(daemon.folder.path().join("sns.toml")).expect("written");
    let text = text.replace("requests_per_s = 1000000", "requests_per_s = 10");
    let mut daemon = daemon;
    std::fs::write(daemon.folder.path().join("sns.toml"), text).expect("ours");
    daemon.restart();
    let client = daemon.client().await;
    let mut refused = 0;
    for _ in 0..100 {
        match client.ask(get_service("www.e0@example.com")).await {
            Err(stp_lookup::AskError::Refused(why)) if why.why == Refusal::TooMany => {
                assert!(why.retry_after_ms > 0);
                refused += 1;
            }
            _ => {}
        }
    }
    assert!(refused > 50, "{refused}");
}

#[tokio::test]
async fn garbage_ends_the_link_and_nothing_else() {
    let daemon = Daemon::start();
    let good = daemon.client().await;
    let tls = Tls::new(&Identity::generate());
    let options = stp_net::link::LinkOptions::default();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xD1], &[0xD1, 0, 0, 0, 1, 99], &[0; 16_384]]
    {
        let mut link = stp_net::link::Link::dial(daemon.address, &daemon.key, &tls, &options)
            .await
            .expect("it listens");
        link.send(garbage);
        link.try_flush().expect("there is room");
        let ended = tokio::time::timeout(std::time::Duration::from_secs(5), async {
            loop {
                let _ = std::future::poll_fn(|cx| link.poll_readable(cx)).await;
                match link.try_read() {
                    Ok(records) if records.closed() => return,
                    Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return,
                    _ => {}
                }
            }
        });
        ended.await.expect("the link is ended");
    }
    assert!(places(&good, "www.x@example.com").await.is_empty(), "others go on");
}

#[tokio::test]
async fn the_daemon_ends_cleanly_and_says_what_is_wrong_with_its_file() {
    let mut daemon = Daemon::start();
    assert!(daemon.get("/status").contains("\"store_works\":true"));
    assert!(daemon.get("/metrics").contains("stp_sns_endpoints 0"));
    assert!(daemon.get("/plain").contains("Session Name Server"));
    assert!(daemon.terminate().success());
    assert!(!daemon.socket.exists());
    let program = env!("CARGO_BIN_EXE_stp-sns");
    let config = daemon.folder.path().join("sns.toml");
    let run = |arguments: &[&str]| {
        let command =
            std::process::Command::new(program).args(arguments).output().expect("it runs");
        (command.status.success(), String::from_utf8_lossy(&command.stderr).into_owned())
    };
    let path = config.to_str().expect("text");
    assert!(run(&["--config", path, "--check"]).0);
    let text = read(&config);
    std::fs::write(&config, text.replace("[store]", "[stoor]")).expect("ours");
    let (good, said) = run(&["--config", path, "--check"]);
    let line = text.lines().position(|line| line == "[store]").expect("it is there") + 1;
    assert!(!good && said.contains(&format!("sns.toml:{line}: stoor: no such key")), "{said}");
    assert!(run(&["--help"]).0 && run(&["--version"]).0);
}
