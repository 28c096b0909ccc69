//! The gateway: log-in, what a stranger can learn from it, look-up of files, tickets.

mod fixture;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fixture::*;
use serde_json::Value;
use stp_lookup::gateway::LoginError;
use stp_lookup::{AskError, Gateway, Keys};
use stp_net::cluster_key::ClusterKey;
use stp_net::key::Identity;
use stp_net::link::Tls;
use stp_net::seal;
use stp_proto::lookup::*;
use stp_proto::scope::Scope;
use stp_sns::admin::Order;
use stp_sns::store::embedded::Embedded;
use stp_sns::tables::Tables;

const FILES: &str = "file.mirror@example.com";

fn key_of(file: &std::path::Path) -> ClusterKey {
    stp_lookup::live_key::read(file, Duration::from_secs(3_600)).expect("ours")
}

fn tls() -> std::sync::Arc<Tls> {
    Tls::new(&Identity::generate())
}

async fn challenge(daemon: &Daemon, user: &str) -> Challenge {
    let client = daemon.client().await;
    match client.ask(Ask::Login(Login { user: user.into() })).await {
        Ok(Body::Challenge(challenge)) => challenge,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_unknown_user_looks_like_a_known_one() {
    let daemon = Daemon::start_with(&Extra { limits: "attempts = 1000", ..Extra::default() });
    daemon.add_user("alice", "/");
    let known = challenge(&daemon, "alice").await;
    let unknown = challenge(&daemon, "mallory").await;
    assert_eq!(known.cost, unknown.cost);
    assert_ne!(known.salt, unknown.salt);
    // For known and unknown names alike, the salt is the same each time and the nonce another one;
    // each name has its own salt.
    for user in ["alice", "mallory"] {
        let (a, b) = (challenge(&daemon, user).await, challenge(&daemon, user).await);
        assert_eq!(a.salt, b.salt);
        assert_ne!(a.nonce, b.nonce);
    }
    assert_ne!(challenge(&daemon, "mallorz").await.salt, unknown.salt);

    // A wrong proof gets the same answer after the same work: a disguise made, a signature checked.
    // (How long it takes is a figure of `examples/lookups.rs`.)
    let work = || -> Value {
        let answer = daemon.get("/status");
        let (_, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        serde_json::from_str::<Value>(body).expect("JSON")["log_ins"].clone()
    };
    let mut seen = Vec::new();
    for user in ["alice", "mallory"] {
        let client = daemon.client().await;
        let before = work();
        client.ask(Ask::Login(Login { user: user.into() })).await.expect("a challenge");
        let refused = client.ask(Ask::Prove(Prove { signature: [7; 64] })).await;
        let done = |what: &str| work()[what].as_u64().zip(before[what].as_u64());
        let done =
            ["disguised", "checked"].map(|what| done(what).map(|(after, before)| after - before));
        assert_eq!(done, [Some(1), Some(1)], "{user}");
        seen.push(refused.expect_err("no proof").to_string());
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn the_right_password_logs_in_and_what_is_left_of_it_does_so_again() {
    let daemon = Daemon::start();
    daemon.add_user("alice", "/");
    let connection = daemon.client().await;
    let (gateway, keys) =
        Gateway::login_with_password(connection, "alice", PASSWORD.into(), 0).await.expect("right");
    assert_eq!(gateway.cluster(), "example");
    let credential = stp_lookup::Credential {
        gateway: daemon.address.to_string().parse().expect("a place"),
        key: daemon.key,
        user: "alice".into(),
        keys,
    };
    Gateway::login(daemon.client().await, &credential, 0).await.expect("from another link and key");
    let wrong = "wrong password".to_owned();
    let refused = Gateway::login_with_password(daemon.client().await, "alice", wrong, 0).await;
    let Err(LoginError::Ask(AskError::Refused(refused))) = refused else { panic!("{refused:?}") };
    assert_eq!(refused.why, Refusal::LoginRefused);
}

#[tokio::test]
async fn a_proof_is_good_for_one_challenge_one_link_and_one_gateway() {
    let daemon = Daemon::start_with(&Extra { limits: "attempts = 1000", ..Extra::default() });
    daemon.add_user("alice", "/");
    let client = daemon.client().await;
    let login = || Ask::Login(Login { user: "alice".into() });
    let Ok(Body::Challenge(given)) = client.ask(login()).await else { panic!("no challenge") };
    let keys = Keys::derive(PASSWORD, &given.salt, given.cost).expect("an acceptable cost");
    let sign = |nonce: &[u8; 32], gateway: &[u8; 32], client: &[u8; 32]| {
        Ask::Prove(Prove {
            signature: keys.prove(&login_statement(nonce, gateway, client, "alice")),
        })
    };
    let (gateway, ours) = (daemon.key.0, client.our_key().0);
    let good = sign(&given.nonce, &gateway, &ours);
    // Another link presents what it has overheard.
    let thief = daemon.client().await;
    assert_eq!(refusal(&thief, good.clone()).await, Refusal::BadRequest, "no challenge of its own");
    thief.ask(login()).await.expect("a challenge");
    assert_eq!(refusal(&thief, good.clone()).await, Refusal::LoginRefused);
    client.ask(good.clone()).await.expect("the right one");
    assert_eq!(refusal(&client, good).await, Refusal::BadRequest, "once");
    for (gateway, ours) in [([1; 32], ours), (gateway, [1; 32])] {
        let client = daemon.connect(&tls()).await;
        let Ok(Body::Challenge(given)) = client.ask(login()).await else { panic!("no challenge") };
        let proof = sign(&given.nonce, &gateway, &ours);
        assert_eq!(refusal(&client, proof).await, Refusal::LoginRefused);
    }
}

#[tokio::test]
async fn attempts_are_limited_for_known_and_unknown_users_alike() {
    let limits = "attempts = 4\nattempts_per_minute = 6";
    let daemon = Daemon::start_with(&Extra { limits, ..Extra::default() });
    daemon.add_user("alice", "/");
    for user in ["alice", "mallory"] {
        let mut seen = Vec::new();
        for _ in 0..6 {
            let client = daemon.client().await;
            client.ask(Ask::Login(Login { user: user.into() })).await.expect("a challenge");
            seen.push(refusal(&client, Ask::Prove(Prove { signature: [7; 64] })).await);
        }
        assert_eq!(seen[..4], [Refusal::LoginRefused; 4], "{user}");
        assert_eq!(seen[4..], [Refusal::TooMany; 2], "{user}");
    }
    // The right password does not help during the lock-out; otherwise it could be guessed
    // meanwhile.
    let login =
        Gateway::login_with_password(daemon.client().await, "alice", PASSWORD.into(), 0).await;
    let Err(LoginError::Ask(AskError::Refused(refused))) = login else { panic!("{login:?}") };
    assert_eq!(refused.why, Refusal::TooMany);
    assert!((1_000..=10_000).contains(&refused.retry_after_ms), "{refused:?}");
}

/// Servers a, b and c are there; a and b hold the file.
async fn cluster(daemon: &Daemon) -> Vec<stp_lookup::Connection> {
    let mut servers = Vec::new();
    for (index, server) in ["a", "b", "c"].into_iter().enumerate() {
        let tls = tls();
        daemon.allow(server, tls.public_key(), &[FILES]);
        let connection = daemon.connect(&tls).await;
        let port = 4431 + u16::try_from(index).expect("three");
        let announced = connection.ask(announce(server, port, &[FILES], 5)).await;
        let Ok(Body::Announced(announced)) = announced else { panic!("{announced:?}") };
        assert!(announced.files_wanted);
        let mut files: Vec<_> =
            (0..200).map(|n| file(&format!("/alice/{server}/{n}"), n, 1)).collect();
        if server != "c" {
            files.push(file("/alice/big.iso", 1 << 33, 8));
        }
        send_files(&connection, server, FILES, 5, &files).await;
        servers.push(connection);
    }
    servers
}

fn locate(path: &str) -> Option<FilePath> {
    Some(FilePath::new(path).expect(path))
}

#[tokio::test]
async fn only_servers_that_hold_the_file_are_told_nearest_first() {
    let tables = "[[network]]\nname = \"here\"\nprefixes = [\"127.0.0.0/8\"]\n";
    let daemon = Daemon::start_with(&Extra { tables, ..Extra::default() });
    daemon.add_user("alice", "/alice");
    let _servers = cluster(&daemon).await;
    let tls = tls();
    let alice = daemon.login(&tls, "alice").await;
    let found = alice.locate(None, locate("/big.iso"), 77).await.expect("two have it");
    let names: Vec<_> = found.servers.iter().map(|server| server.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!((found.size, found.sha256), (1 << 33, [8; 32]));
    assert_eq!(found.service.as_str(), FILES);
    assert_eq!(found.path.as_ref().map(FilePath::as_str), Some("/alice/big.iso"));
    assert!(found.servers.iter().all(|server| server.hops == 0));

    // The ticket is for this client, file and first byte.
    let cluster = key_of(&daemon.folder.path().join("cluster.key"));
    let claims = seal::open(&cluster, &found.ticket, &tls.public_key()).expect("for this client");
    let grant = Grant::decode(&claims).expect("a grant");
    assert_eq!((grant.user.as_str(), grant.byte), ("alice", 77));
    assert_eq!(grant.scope, Some(Scope::Path("/alice/big.iso".into())));

    // A service as a whole; the tree of another user; a file that no server has.
    let whole = alice.locate(Some(name(FILES)), None, 0).await.expect("three offer it");
    assert_eq!(whole.servers.len(), 3);
    let refused = alice.locate(None, locate("/none"), 0).await.expect_err("nobody has it");
    assert!(matches!(refused, AskError::Refused(refused) if refused.why == Refusal::NotFound));
    daemon.add_user("bob", "/bob");
    let bob = daemon.login(&Tls::new(&Identity::generate()), "bob").await;
    let refused = bob.locate(None, locate("/big.iso"), 0).await.expect_err("not in bob's tree");
    assert!(matches!(refused, AskError::Refused(refused) if refused.why == Refusal::NotFound));
}

#[tokio::test]
async fn without_a_log_in_there_is_no_ticket() {
    let daemon = Daemon::start();
    let _servers = cluster(&daemon).await;
    let ask = Ask::Locate(Locate { service: None, path: locate("/alice/big.iso"), from: 0 });
    assert_eq!(refusal(&daemon.client().await, ask).await, Refusal::NotLoggedIn);
}

#[tokio::test]
async fn a_server_that_is_gone_is_told_no_more_and_its_list_is_known_when_it_is_back() {
    let limits = "server_lease = \"2s\"";
    let daemon = Daemon::start_with(&Extra { limits, ..Extra::default() });
    daemon.add_user("alice", "/alice");
    let servers = cluster(&daemon).await;
    let alice = daemon.login(&tls(), "alice").await;
    until("b and c are gone, a is not", async || {
        servers[0].ask(announce("a", 4431, &[FILES], 5)).await.expect("renewed");
        let found = alice.locate(None, locate("/big.iso"), 0).await.expect("a has it");
        found.servers.len() == 1
    })
    .await;
    let Ok(Body::Announced(back)) = servers[1].ask(announce("b", 4999, &[FILES], 5)).await else {
        panic!("refused")
    };
    assert!(!back.files_wanted, "the list is known");
    let found = alice.locate(None, locate("/big.iso"), 0).await.expect("two have it");
    assert_eq!(found.servers.len(), 2);
    let all_gone = Instant::now();
    until("nobody is left", async || {
        let located = alice.locate(None, locate("/big.iso"), 0).await;
        matches!(located, Err(AskError::Refused(refused)) if refused.why == Refusal::NoServer)
    })
    .await;
    assert!(all_gone.elapsed() > Duration::from_secs(1));
}

#[tokio::test]
async fn a_list_counts_when_it_is_whole_and_a_new_one_replaces_the_old() {
    let daemon = Daemon::start();
    daemon.add_user("alice", "/alice");
    let servers = cluster(&daemon).await;
    let alice = daemon.login(&tls(), "alice").await;
    // Half a list changes nothing.
    let half = Files {
        server: "a".into(),
        service: name(FILES),
        first: true,
        last: false,
        inventory: [6; 32],
        files: vec![file("/alice/new", 1, 1)].into(),
    };
    servers[0].ask(Ask::Files(half)).await.expect("allowed");
    assert!(alice.locate(None, locate("/new"), 0).await.is_err());
    assert_eq!(alice.locate(None, locate("/big.iso"), 0).await.expect("still").servers.len(), 2);
    send_files(&servers[0], "a", FILES, 6, &[file("/alice/new", 1, 1)]).await;
    assert_eq!(alice.locate(None, locate("/new"), 0).await.expect("now").servers.len(), 1);
    assert_eq!(alice.locate(None, locate("/big.iso"), 0).await.expect("b has it").servers.len(), 1);
}

/// A server that begins lists and never ends one does not fill the store.
#[tokio::test]
async fn of_lists_that_are_never_finished_one_is_kept() {
    let mut daemon = Daemon::start();
    daemon.add_user("alice", "/alice");
    let servers = cluster(&daemon).await;
    let part = |inventory, first, files: Vec<FileEntry>| {
        Ask::Files(Files {
            server: "a".into(),
            service: name(FILES),
            first,
            last: false,
            inventory: [inventory; 32],
            files: files.into(),
        })
    };
    for inventory in 10..50 {
        let begun = part(inventory, true, vec![file("/alice/new", 1, 1)]);
        servers[0].ask(begun).await.expect("allowed");
    }
    assert_eq!(refusal(&servers[0], part(49, false, Vec::new())).await, Refusal::BadRequest);
    let alice = daemon.login(&tls(), "alice").await;
    assert_eq!(alice.locate(None, locate("/big.iso"), 0).await.expect("it holds").servers.len(), 2);
    daemon.kill();
    let tables: Arc<Tables> = Arc::default();
    let sink = Arc::clone(&tables);
    let _store = Embedded::open(&daemon.folder.path().join("sns.redb"), sink).expect("nobody's");
    let lists = tables.read(|held| held.lists("a", FILES));
    assert_eq!(lists.len(), 2, "the one that holds, and the one begun last: {lists:?}");
}

#[tokio::test]
async fn a_copy_that_differs_is_not_told() {
    let limits = "server_lease = \"120s\"";
    let daemon = Daemon::start_with(&Extra { limits, ..Extra::default() });
    daemon.add_user("alice", "/");
    for (index, (server, content)) in [("a", 1), ("b", 2), ("c", 1)].into_iter().enumerate() {
        let tls = tls();
        daemon.allow(server, tls.public_key(), &[FILES]);
        let connection = daemon.connect(&tls).await;
        let port = 4431 + u16::try_from(index).expect("three");
        connection.ask(announce(server, port, &[FILES], 5)).await.expect("allowed");
        send_files(&connection, server, FILES, 5, &[file("/f", 9, content)]).await;
    }
    let alice = daemon.login(&tls(), "alice").await;
    let found = alice.locate(None, locate("/f"), 0).await.expect("two agree");
    let names: Vec<_> = found.servers.iter().map(|server| server.name.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
}

#[tokio::test]
async fn only_allowed_servers_announce_only_what_they_may() {
    let daemon = Daemon::start();
    let (ours, thief) = (tls(), tls());
    daemon.allow("a", ours.public_key(), &[FILES]);
    let thief = daemon.connect(&thief).await;
    assert_eq!(refusal(&thief, announce("a", 1, &[FILES], 0)).await, Refusal::NotAllowed);
    assert_eq!(refusal(&thief, announce("z", 1, &[FILES], 0)).await, Refusal::NotAllowed);
    let ours = daemon.connect(&ours).await;
    let other = "ssh.home@example.com";
    assert_eq!(refusal(&ours, announce("a", 1, &[FILES, other], 0)).await, Refusal::NotAllowed);
    ours.ask(announce("a", 1, &[FILES], 0)).await.expect("as allowed");
    daemon.order(&stp_sns::admin::Order::ServerForbid { server: "a".into() });
    assert!(places(&ours, FILES).await.is_empty());
    assert_eq!(refusal(&ours, announce("a", 1, &[FILES], 0)).await, Refusal::NotAllowed);
}

#[tokio::test]
async fn the_cluster_key_changes_while_the_daemon_runs() {
    let daemon = Daemon::start();
    daemon.add_user("alice", "/alice");
    let _servers = cluster(&daemon).await;
    let tls = tls();
    let alice = daemon.login(&tls, "alice").await;
    let file = daemon.folder.path().join("cluster.key");
    let old = key_of(&file);
    use stp_sns::cluster_key::{Step, step};
    step(&file, Step::Add).expect("ours");
    step(&file, Step::Promote).expect("ours");
    until("tickets are sealed with the new key", async || {
        let found = alice.locate(None, locate("/big.iso"), 0).await.expect("two have it");
        seal::open(&old, &found.ticket, &tls.public_key()).is_err()
    })
    .await;
    let new = key_of(&file);
    let found = alice.locate(None, locate("/big.iso"), 0).await.expect("two have it");
    seal::open(&new, &found.ticket, &tls.public_key()).expect("the new key opens");
}

#[tokio::test]
async fn nothing_secret_is_logged_or_shown() {
    let daemon = Daemon::start();
    daemon.add_user("alice", "/alice");
    let _servers = cluster(&daemon).await;
    let connection = daemon.client().await;
    let (gateway, keys) =
        Gateway::login_with_password(connection, "alice", PASSWORD.into(), 0).await.expect("right");
    let found = gateway.locate(None, locate("/big.iso"), 0).await.expect("two have it");
    let _ = Gateway::login_with_password(daemon.client().await, "alice", "wrong".into(), 0).await;
    let shown = [daemon.log(), daemon.get("/status"), daemon.get("/metrics"), daemon.get("/")];
    let cluster = read(&daemon.folder.path().join("cluster.key"));
    let ticket = String::from_utf8(found.ticket.clone()).expect("text");
    let hex: String = keys.list_key().iter().map(|byte| format!("{byte:02x}")).collect();
    let base64 = stp_sns::record::text(&keys.list_key());
    let proof = stp_sns::record::text(&keys.proof_key());
    for secret in [PASSWORD, cluster.trim(), &ticket, &hex, &base64, &proof] {
        for text in &shown {
            assert!(!text.contains(secret), "{secret} is shown");
        }
    }
    assert!(daemon.log().contains("log-in refused") && daemon.log().contains("logged in"));
    use std::os::unix::fs::PermissionsExt;
    for private in ["sns.redb", "sns.sock", "sns.key", "cluster.key"] {
        let path = daemon.folder.path().join(private);
        let mode = std::fs::metadata(path).expect(private).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{private}");
    }
}

#[tokio::test]
async fn nobody_slips_in_beside_the_servers_of_a_cluster() {
    let daemon = Daemon::start();
    daemon.add_user("alice", "/");
    let thief = daemon.client().await;
    let service = "www.mirror@example.com";
    thief.ask(new_endpoint("mirror@example.com", "192.0.2.66", 0)).await.expect("a free name");
    thief.ask(new_service(service, 66)).await.expect("a free name");
    assert_eq!(places(&thief, service).await.len(), 1);
    // As soon as an operator gives the name to servers, it leads to them alone.
    let server = tls();
    daemon.allow("a", server.public_key(), &[service]);
    assert!(places(&thief, service).await.is_empty());
    daemon.connect(&server).await.ask(announce("a", 4431, &[service], 0)).await.expect("allowed");
    let found = places(&thief, service).await;
    assert_eq!(found, ["127.0.0.1:4431".parse().expect("an address")]);
    let alice = daemon.login(&tls(), "alice").await;
    let located = alice.locate(Some(name(service)), None, 0).await.expect("a offers it");
    assert_eq!(located.servers.len(), 1);
    let again = new_service("file.mirror@example.com", 67);
    thief.ask(again).await.expect("another name");
    daemon.allow("a", server.public_key(), &[service, "ftp.mirror@example.com"]);
    let taken = new_service("ftp.mirror@example.com", 68);
    assert_eq!(refusal(&thief, taken).await, Refusal::NotAllowed);
}

fn why(error: &AskError) -> Option<Refusal> {
    match error {
        AskError::Refused(refused) => Some(refused.why),
        _ => None,
    }
}

#[tokio::test]
async fn a_user_has_the_own_tree_and_services_and_nothing_else() {
    let daemon = Daemon::start();
    daemon.add_user("bob", "/alice");
    let _servers = cluster(&daemon).await;
    let tls = tls();
    let bob = daemon.login(&tls, "bob").await;
    let scope = |found: &stp_lookup::Referral| {
        let cluster = key_of(&daemon.folder.path().join("cluster.key"));
        let claims = seal::open(&cluster, &found.ticket, &tls.public_key()).expect("his");
        Grant::decode(&claims).expect("a grant").scope
    };
    // The service as a whole: the ticket says that only the tree is meant.
    let whole = bob.locate(Some(name(FILES)), None, 0).await.expect("three offer it");
    assert_eq!(scope(&whole), Some(Scope::Tree("/alice".into())));
    let change = |tree: Option<&str>, services: Option<&[&str]>| Order::UserChange {
        user: "bob".into(),
        password: None,
        tree: tree.map(str::to_owned),
        services: services.map(|all| all.iter().map(ToString::to_string).collect()),
    };
    daemon.order(&change(None, Some(&["ssh.home@example.com"])));
    let bob = daemon.login(&tls, "bob").await;
    let refused = bob.locate(Some(name(FILES)), None, 0).await.expect_err("not his service");
    assert_eq!(why(&refused), Some(Refusal::NotAllowed), "{refused}");
    let refused = bob.locate(None, locate("/big.iso"), 0).await.expect_err("only in that service");
    assert_eq!(why(&refused), Some(Refusal::NotFound), "{refused}");
    daemon.order(&change(Some("/"), Some(&[])));
    let bob = daemon.login(&tls, "bob").await;
    let whole = bob.locate(Some(name(FILES)), None, 0).await.expect("his again");
    assert_eq!(scope(&whole), None);
}

#[tokio::test]
async fn a_changed_password_ends_log_ins_on_links_that_live_and_servers_are_told() {
    let daemon = Daemon::start();
    daemon.add_user("alice", "/alice");
    let servers = cluster(&daemon).await;
    let alice = daemon.login(&tls(), "alice").await;
    alice.locate(None, locate("/big.iso"), 0).await.expect("logged in");
    let verifier = stp_lookup::Verifier::new("another password", KdfCost::default());
    let password = stp_sns::record::User::new(&verifier.expect("the default cost"), "/");
    let change = Order::UserChange {
        user: "alice".into(),
        password: Some(password),
        tree: None,
        services: None,
    };
    daemon.order(&change);
    let refused = alice.locate(None, locate("/big.iso"), 0).await.expect_err("ended");
    assert_eq!(why(&refused), Some(Refusal::NotLoggedIn), "{refused}");
    let revoked = async || {
        let Ok(Body::Announced(back)) = servers[0].ask(announce("a", 4431, &[FILES], 5)).await
        else {
            panic!("refused")
        };
        back.revoked.iter().map(|one| one.user.clone()).collect::<Vec<_>>()
    };
    assert_eq!(revoked().await, ["alice"]);
    assert!(revoked().await.is_empty(), "once on a link");
    // The tree was not given and has stayed.
    let list = daemon.order(&Order::UserList).to_string();
    assert!(list.contains("\"/alice\""), "{list}");
    daemon.order(&Order::UserDelete { user: "alice".into() });
    assert_eq!(revoked().await, ["alice"]);
}
