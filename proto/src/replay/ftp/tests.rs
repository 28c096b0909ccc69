//! The control connection, line by line.

use super::control::{Act, Control, DataNews};
use super::line::{LINE_MAX, Lines};
use super::login::Login;
use super::place::{Family, Place, passive_reply, port_of_reply};
use super::reply::{REPLY_MAX, Replies, Reply};
use super::resumption::Resumption;
use super::{Answer, Command, Exchange, Transfer};
use crate::handle::Handle;
use crate::wire::Announcement;

fn begun() -> Control {
    let mut control = Control::new([127, 192, 0, 5].into(), Handle([7; 16]), false);
    control.server(b"220 hello\r\n");
    assert_eq!(text(&mut control), "C:220 hello\r\n");
    control
}

/// A control connection on which somebody has logged in.
fn logged_in() -> Control {
    let mut control = begun();
    for (command, reply) in
        [("USER ann", "331 password"), ("PASS secret", "230 in"), ("TYPE I", "200 binary")]
    {
        assert_eq!(say(&mut control, command), format!("S:{command}\r\n"));
        assert_eq!(hear(&mut control, reply), format!("C:{reply}\r\n"));
    }
    control
}

/// Everything that is to be done, in short.
fn text(control: &mut Control) -> String {
    let mut all = Vec::new();
    while let Some(act) = control.poll_act() {
        all.push(match act {
            Act::Send(bytes) => format!("S:{}", String::from_utf8_lossy(&bytes)),
            Act::Answer(answer) => match answer.announcement {
                None => format!("C:{}", String::from_utf8_lossy(&answer.bytes)),
                Some(what) => {
                    let what = match what {
                        Announcement::Await { .. } => "await".to_owned(),
                        Announcement::Reach { address, .. } => format!("reach {address}"),
                        Announcement::Drop { .. } => "drop".to_owned(),
                        Announcement::Range { .. } => "range".to_owned(),
                    };
                    format!("[{what}] C:{}", String::from_utf8_lossy(&answer.bytes))
                }
            },
            Act::Pass(bytes) => format!("P:{}", String::from_utf8_lossy(&bytes)),
            Act::HangUp => "hang up\n".into(),
            Act::LogIn => "log in\n".into(),
            Act::Expect(_) => "expect\n".into(),
            Act::Range { first, last, .. } => format!("range {first}-{last}\n"),
            Act::Forget(_) => "forget\n".into(),
            Act::Connect(port) => format!("connect {port}\n"),
            Act::Begin { connected, .. } => format!("begin {connected}\n"),
            Act::Judge(_, verdict) => format!("{verdict:?}\n"),
            Act::AskToMove => "ask to move\n".into(),
            Act::Opaque => "opaque\n".into(),
            Act::End => "end\n".into(),
        });
    }
    all.concat()
}

fn say(control: &mut Control, line: &str) -> String {
    let line = format!("{line}\r\n");
    assert_eq!(control.client(line.as_bytes()), line.len());
    text(control)
}

fn hear(control: &mut Control, line: &str) -> String {
    control.server(format!("{line}\r\n").as_bytes());
    text(control)
}

fn answers(control: &mut Control) -> Vec<Answer> {
    let mut all = Vec::new();
    while let Some(act) = control.poll_act() {
        if let Act::Answer(answer) = act {
            all.push(*answer);
        }
    }
    all
}

/// Goes to where the server has said 150 to this command.
fn started(control: &mut Control, command: &str) {
    let asked = say(control, "PASV");
    assert!(asked.contains("[await] C:227 Entering Passive Mode (127,192,0,5,"), "{asked}");
    assert_eq!(say(control, command), "S:PASV\r\n");
    assert_eq!(hear(control, "227 x (10,9,8,7,4,1)"), "connect 1025\n");
    control.connected(true);
    assert_eq!(text(control), format!("S:{command}\r\n"));
    assert_eq!(hear(control, "150 opening"), "begin true\nC:150 opening\r\n");
}

fn token(control: &Control) -> Handle {
    control.running().expect("a transfer is under way")
}

#[test]
fn success_is_told_when_both_the_server_and_the_data_say_so() {
    let mut control = logged_in();
    started(&mut control, "RETR big");
    assert_eq!(hear(&mut control, "226 done"), "Done\n");
    let token = token(&control);
    control.data(token, DataNews::Delivered);
    assert_eq!(text(&mut control), "C:226 done\r\n");
    assert_eq!(say(&mut control, "NOOP"), "S:NOOP\r\n");
}

#[test]
fn a_server_that_breaks_off_leaves_the_data_to_themselves() {
    for last in ["426 cut", "451 disk", "421 timeout"] {
        let mut control = logged_in();
        started(&mut control, "RETR big");
        let said = hear(&mut control, last);
        assert!(said.ends_with("Lost\n"), "{said}");
        let token = token(&control);
        control.data(token, DataNews::Delivered);
        assert_eq!(text(&mut control), "C:226 Transfer complete.\r\n", "{last}");
    }
    let mut control = logged_in();
    started(&mut control, "LIST");
    control.server_lost();
    assert_eq!(text(&mut control), "hang up\nLost\n");
    let token = token(&control);
    control.data(token, DataNews::Failed);
    assert!(text(&mut control).starts_with("C:426 "));
    // The next command logs in again, unseen.
    assert_eq!(say(&mut control, "PWD"), "log in\n");
    control.server_ready(false);
    assert_eq!(text(&mut control), "S:PWD\r\n");
    assert_eq!(hear(&mut control, "257 \"/\""), "C:257 \"/\"\r\n");
}

#[test]
fn nobody_is_told_of_success_for_data_that_did_not_arrive() {
    let mut control = logged_in();
    started(&mut control, "RETR big");
    assert_eq!(hear(&mut control, "226 done"), "Done\n");
    let token = token(&control);
    control.data(token, DataNews::ClientGone);
    assert!(text(&mut control).starts_with("C:426 "));
    // What comes later changes nothing.
    control.data(token, DataNews::Delivered);
    assert_eq!(text(&mut control), "");
}

#[test]
fn an_upload_ends_with_the_servers_word_or_with_an_error() {
    let mut control = logged_in();
    started(&mut control, "STOR up");
    assert_eq!(hear(&mut control, "226 stored"), "Done\n");
    let token = token(&control);
    control.data(token, DataNews::Delivered);
    assert_eq!(text(&mut control), "C:226 stored\r\n");
    // Without its server the data side tries by itself; what becomes of that is told.
    for (news, told) in [(DataNews::Delivered, "C:226 "), (DataNews::Failed, "[drop] C:426 ")] {
        started(&mut control, "STOR up");
        control.server_lost();
        assert_eq!(text(&mut control), "hang up\nLost\n");
        let token = self::token(&control);
        control.data(token, news);
        let said = text(&mut control);
        assert!(said.starts_with(told), "{said}");
        control.server_ready(false);
    }
    // A server that has a word to say is believed.
    started(&mut control, "STOR up");
    assert_eq!(hear(&mut control, "452 disk full"), "Failed\nC:452 disk full\r\n");
    // Nobody could tell how much of it is there.
    say(&mut control, "TYPE A");
    hear(&mut control, "200 text");
    started(&mut control, "STOR up");
    control.server_lost();
    let said = text(&mut control);
    assert!(said.contains("Failed\n") && said.contains("C:426 "), "{said}");
}

/// The file that the transfer under way makes, as its first ticket has it.
fn file_of(control: &mut Control) -> Option<super::File> {
    let state = answers(control).remove(0).state.unwrap();
    state.running.unwrap().file
}

#[test]
fn only_a_file_that_comes_whole_from_the_client_can_be_gone_on_with() {
    let file = |name: &str| Some(super::File { name: name.into() });
    let mut control = logged_in();
    // What was there before is not the client's.
    for (size, whole) in [("213 700", false), ("550 none", true), ("500 what", false)] {
        say(&mut control, "EPSV");
        say(&mut control, "APPE up");
        hear(&mut control, "227 x (10,9,8,7,4,1)");
        control.connected(true);
        assert_eq!(text(&mut control), "S:SIZE up\r\n");
        assert_eq!(hear(&mut control, size), "S:APPE up\r\n");
        control.server(b"150 go\r\n");
        assert_eq!(file_of(&mut control), file("up").filter(|_| whole), "{size}");
        let token = token(&control);
        control.data(token, DataNews::Delivered);
        hear(&mut control, "226 done");
    }
    for (first, named) in [("150 FILE: up.1", file("up.1")), ("150 go", None)] {
        say(&mut control, "EPSV");
        say(&mut control, "STOU");
        hear(&mut control, "227 x (10,9,8,7,4,1)");
        control.connected(true);
        text(&mut control);
        control.server(format!("{first}\r\n").as_bytes());
        assert_eq!(file_of(&mut control), named);
        let token = token(&control);
        control.data(token, DataNews::Delivered);
        hear(&mut control, "226 done");
    }
}

#[test]
fn active_mode_is_answered_here_and_announced_when_data_are_to_come() {
    let mut control = logged_in();
    let said = say(&mut control, "PORT 10,0,0,1,200,1");
    assert_eq!(said, "expect\nC:200 PORT command successful.\r\n");
    assert_eq!(say(&mut control, "LIST"), "S:PASV\r\n");
    hear(&mut control, "227 x (10,9,8,7,4,1)");
    control.connected(true);
    text(&mut control);
    let said = hear(&mut control, "150 here");
    assert_eq!(said, "begin true\n[reach 10.0.0.1:51201] C:150 here\r\n");
}

#[test]
fn ports_of_the_system_and_before_a_login_are_refused() {
    let mut control = begun();
    assert!(say(&mut control, "PASV").starts_with("C:530 "));
    let mut control = logged_in();
    assert!(say(&mut control, "PORT 10,0,0,1,0,21").starts_with("C:500 "));
    assert!(say(&mut control, "PORT 10,0,0,1,0").starts_with("C:501 "));
    assert!(say(&mut control, "EPRT |9|::1|4000|").starts_with("C:501 "));
    assert_eq!(say(&mut control, "EPSV ALL"), "S:EPSV ALL\r\n");
    hear(&mut control, "200 ok");
    assert!(say(&mut control, "PASV").starts_with("C:501 "));
    assert!(say(&mut control, "EPSV").contains("[await] C:229 "));
}

#[test]
fn rest_stands_right_before_its_command() {
    let mut control = logged_in();
    say(&mut control, "EPSV");
    say(&mut control, "REST 100");
    assert_eq!(hear(&mut control, "350 at 100"), "C:350 at 100\r\n");
    say(&mut control, "RETR big");
    hear(&mut control, "227 x (10,9,8,7,4,1)");
    control.connected(true);
    assert_eq!(text(&mut control), "S:REST 100\r\n");
    assert_eq!(hear(&mut control, "350 at 100"), "S:RETR big\r\n");
    hear(&mut control, "150 go");
    hear(&mut control, "226 done");
    let token = token(&control);
    control.data(token, DataNews::Delivered);
    text(&mut control);
    // It is used up.
    started(&mut control, "RETR big");
}

#[test]
fn an_upload_goes_on_only_where_its_beginning_is() {
    for (size, goes_on) in [("213 100", true), ("213 99", false), ("550 no", false)] {
        let mut control = logged_in();
        say(&mut control, "EPSV");
        say(&mut control, "REST 100");
        hear(&mut control, "350 at 100");
        say(&mut control, "ALLO 500");
        hear(&mut control, "202 ok");
        say(&mut control, "STOR up");
        hear(&mut control, "227 x (10,9,8,7,4,1)");
        control.connected(true);
        assert_eq!(text(&mut control), "S:SIZE up\r\n");
        let said = hear(&mut control, size);
        assert_eq!(said.starts_with("S:REST 100"), goes_on, "{size}: {said}");
        assert_eq!(said.contains("C:450 "), !goes_on, "{size}: {said}");
    }
}

#[test]
fn abort_beside_a_transfer_has_an_answer_of_its_own() {
    let mut control = logged_in();
    started(&mut control, "RETR big");
    let codes = [b"\xff\xf4\xff\xf2".as_slice(), b"ABOR\r\n"].concat();
    assert_eq!(control.client(&codes), codes.len());
    assert_eq!(text(&mut control), "S:ABOR\r\n");
    let token = token(&control);
    control.data(token, DataNews::ClientGone);
    assert_eq!(hear(&mut control, "426 cut"), "Failed\nC:426 cut\r\n");
    assert_eq!(hear(&mut control, "226 aborted"), "C:226 aborted\r\n");
    assert_eq!(say(&mut control, "NOOP"), "S:NOOP\r\n");
}

#[test]
fn the_answer_to_abort_waits_for_what_became_of_the_data() {
    let mut control = logged_in();
    started(&mut control, "RETR big");
    assert_eq!(say(&mut control, "ABOR"), "S:ABOR\r\n");
    let token = token(&control);
    control.server(b"426 cut\r\n225 nothing to abort\r\n");
    assert_eq!(text(&mut control), "Failed\n");
    control.data(token, DataNews::ClientGone);
    assert_eq!(text(&mut control), "C:426 cut\r\nC:225 nothing to abort\r\n");
    assert_eq!(say(&mut control, "NOOP"), "S:NOOP\r\n");
}

#[test]
fn commands_that_come_early_wait_and_only_so_many_do() {
    let mut control = begun();
    let many = b"NOOP\r\n".repeat(40);
    let taken = control.client(&many);
    assert!(taken < many.len() && taken >= 16 * 6, "{taken}");
    assert_eq!(text(&mut control), "S:NOOP\r\n");
    assert_eq!(hear(&mut control, "200 ok"), "C:200 ok\r\nS:NOOP\r\n");
}

#[test]
fn what_follows_auth_is_not_looked_at() {
    let mut control = begun();
    let line = b"AUTH TLS\r\n\x16\x03\x01";
    assert_eq!(control.client(line), 10);
    assert_eq!(text(&mut control), "S:AUTH TLS\r\n");
    control.server(b"234 go\r\n\x16secret");
    let said = text(&mut control);
    assert_eq!(said, "C:234 go\r\nopaque\nP:\u{16}secret");
    assert_eq!(control.client(&line[10..]), 3);
    assert_eq!(text(&mut control), "S:\u{16}\u{3}\u{1}");
}

#[test]
fn the_ports_of_an_encrypted_login_are_announced_at_once() {
    let mut control = begun().with_secret_ports(Some((40_000, 40_009)));
    say(&mut control, "AUTH TLS");
    let said = hear(&mut control, "234 go");
    assert_eq!(said, "range 40000-40009\n[range] C:234 go\r\nopaque\n");
}

#[test]
fn a_time_out_of_the_server_is_not_seen() {
    let mut control = logged_in();
    assert_eq!(hear(&mut control, "421 Timeout."), "hang up\n");
    assert_eq!(say(&mut control, "CWD sub"), "log in\n");
    control.server_ready(false);
    assert_eq!(text(&mut control), "S:CWD sub\r\n");
    // It crossed the command: said once more, and not more often.
    assert_eq!(hear(&mut control, "421 Timeout."), "hang up\nlog in\n");
    control.server_ready(false);
    text(&mut control);
    let said = hear(&mut control, "421 Timeout.");
    assert!(said.contains("C:451 "), "{said}");
}

#[test]
fn what_cannot_be_repeated_is_not() {
    let mut control = logged_in();
    say(&mut control, "DELE x");
    control.server_lost();
    let said = text(&mut control);
    assert!(said.starts_with("hang up\nC:451 "), "{said}");
}

#[test]
fn another_server_goes_on_where_the_ticket_stands() {
    let mut control = logged_in();
    say(&mut control, "CWD sub");
    hear(&mut control, "250 ok");
    say(&mut control, "EPSV");
    say(&mut control, "RETR big");
    hear(&mut control, "227 x (10,9,8,7,4,1)");
    control.connected(true);
    text(&mut control);
    control.server(b"150 opening\r\n");
    let answer = answers(&mut control).remove(0);
    let state = answer.state.expect("it can be continued");
    let json = serde_json::to_string(&Exchange::Control(Box::new(state.clone()))).unwrap();
    let Ok(Exchange::Control(read)) = serde_json::from_str(&json) else { panic!("{json}") };
    assert_eq!(*read, state);
    assert!(!format!("{state:?}").contains("secret"), "a password is shown");
    let fresh = || Control::new([127, 192, 0, 5].into(), Handle([9; 16]), false);
    // The client has four bytes of the reply.
    let mut other = fresh().restored(&state, answer.covers, 4).unwrap();
    assert_eq!(text(&mut other), "P:opening\r\nexpect\nbegin false\n");
    let running = other.running().unwrap();
    other.data(running, DataNews::Delivered);
    assert_eq!(text(&mut other), "C:226 Transfer complete.\r\n");
    let all = other.login().steps();
    let verbs: Vec<_> = all.iter().map(super::login::Step::verb).collect();
    assert_eq!(verbs, ["USER", "PASS", "TYPE", "CWD"]);
    assert!(fresh().restored(&state, answer.covers, 14).is_none(), "more than there is");
}

#[test]
fn an_upload_goes_on_elsewhere_if_its_data_do_and_nobody_said_that_they_cannot() {
    let mut control = logged_in();
    say(&mut control, "EPSV");
    say(&mut control, "STOR up");
    hear(&mut control, "227 x (10,9,8,7,4,1)");
    control.connected(true);
    text(&mut control);
    control.server(b"150 opening\r\n");
    let answer = answers(&mut control).remove(0);
    let state = answer.state.unwrap();
    assert!(Resumption::make(&state.login, state.running.as_ref().unwrap()).is_none());
    let fresh = || Control::new([127, 192, 0, 5].into(), Handle([9; 16]), false);
    for (news, told) in [(DataNews::Delivered, "C:226 "), (DataNews::Failed, "[drop] C:426 ")] {
        let mut other = fresh().restored(&state, answer.covers, 13).unwrap();
        assert_eq!(text(&mut other), "expect\nbegin false\n");
        other.data(token(&control), news);
        let said = text(&mut other);
        assert!(said.starts_with(told), "{said}");
    }
    control.data(token(&control), DataNews::Fixed);
    let answer = answers(&mut control).remove(0);
    assert!(answer.bytes.is_empty(), "only a ticket");
    let mut other = fresh().restored(&answer.state.unwrap(), answer.covers, 0).unwrap();
    assert!(text(&mut other).contains("Failed\n[drop] C:426 "));
}

#[test]
fn a_transfer_is_asked_for_as_it_was() {
    let mut login = Login::default();
    let ok = Reply::new(200, "ok");
    for line in ["USER a", "PASS b", "OPTS UTF8 ON", "TYPE A", "TYPE I", "CWD /x", "CWD y", "CDUP"]
    {
        login.note(&Command::new(line.into(), 0), &ok);
    }
    login.note(&Command::new("CWD /gone".into(), 0), &Reply::new(550, "no"));
    let running = super::Running {
        token: Handle([1; 16]),
        command: b"RETR f".to_vec(),
        transfer: Transfer::Down,
        rest: Some(5),
        file: None,
    };
    let plan = Resumption::make(&login, &running).unwrap();
    let lines: Vec<_> = plan.login.iter().map(|step| step.line.clone()).collect();
    let lines = String::from_utf8(lines.concat()).unwrap();
    assert_eq!(lines, "USER a\r\nPASS b\r\nOPTS UTF8 ON\r\nTYPE I\r\nCWD /x\r\n");
    assert_eq!(plan.rest.unwrap().line, b"REST 5\r\n");
    assert!(
        plan.login[0].accepts(&Reply::new(331, "")) && !plan.login[1].accepts(&Reply::new(530, ""))
    );
}

#[test]
fn too_many_steps_end_the_login_being_repeatable() {
    let mut login = Login::default();
    for _ in 0..100 {
        login.note(&Command::new(b"CWD ../a/b".to_vec(), 0), &Reply::new(250, "ok"));
    }
    assert!(!login.can_be_repeated());
}

#[test]
fn lines_are_bounded_and_telnet_codes_are_taken_out() {
    let mut lines = Lines::at(10);
    let (taken, line) = lines.take(b"NO\xff\xfd\x01OP\xff\xff\r\nrest");
    let line = line.unwrap();
    assert_eq!((taken, line.text.as_slice(), line.end), (11, b"NOOP\xff".as_slice(), 21));
    let long = vec![b'x'; LINE_MAX + 10];
    assert!(lines.take(&long).1.is_none());
    let line = lines.take(b"\n").1.unwrap();
    assert!(line.too_long && line.text.is_empty());
}

#[test]
fn replies_of_several_lines_end_with_their_code() {
    let mut replies = Replies::default();
    let bytes =
        b"211-Features:\r\n 200 not this\r\n211-nor this\r\n212 nor this\r\n211 End\r\n220 x";
    let (taken, reply) = replies.take(bytes).unwrap();
    let reply = reply.unwrap();
    assert_eq!((reply.code, taken, reply.bytes.len()), (211, bytes.len() - 5, bytes.len() - 5));
    assert!(Replies::default().take(b"hello\r\n").is_err());
    assert!(Replies::default().take(b"99 x\r\n").is_err());
    let mut storm = Replies::default();
    assert!(storm.take(b"211-x\r\n").is_ok());
    assert!(storm.take(&vec![b'y'; REPLY_MAX]).is_err());
}

#[test]
fn places_are_read_in_all_their_forms() {
    let active = |line: &str| {
        let command = Command::new(line.into(), 0);
        match Place::parse(&command.verb, command.text()) {
            Some(Ok(Place::Active(_, address))) => Some(address.to_string()),
            _ => None,
        }
    };
    assert_eq!(active("PORT 1,2,3,4,5,6").unwrap(), "1.2.3.4:1286");
    assert_eq!(active("eprt |1|1.2.3.4|99|").unwrap(), "1.2.3.4:99");
    assert_eq!(active("EPRT !2!::1!99!").unwrap(), "[::1]:99");
    assert_eq!(active("LPRT 4,4,1,2,3,4,2,5,6").unwrap(), "1.2.3.4:1286");
    assert_eq!(active("PORT 1,2,3,4,5,256"), None);
    assert_eq!(active("PORT 1,2,3,4,5,6,7"), None);
    assert_eq!(active("EPRT |1|::1|99|"), None);
    assert_eq!(active("EPRT |1|1.2.3.4|0|"), None);
    let port = |code, text: &str| port_of_reply(&Reply::new(code, text));
    assert_eq!(port(227, "Entering Passive Mode (10,0,0,1,4,2)."), Some(1026));
    assert_eq!(port(227, "Entering Passive Mode 10,0,0,1,4,2"), Some(1026));
    assert_eq!(port(227, "Entering Passive Mode (10,0,0,1,4)."), None);
    assert_eq!(port(229, "Extended (|||70000|)"), None);
    assert_eq!(port(229, "Extended (!!!7000!)"), Some(7000));
    let back = |family, host: &str| {
        port_of_reply(&passive_reply(family, host.parse().unwrap(), 4711).unwrap())
    };
    assert_eq!(back(Family::Plain, "1.2.3.4"), Some(4711));
    assert_eq!(back(Family::Extended, "::1"), Some(4711));
    assert_eq!(back(Family::Long, "::1"), Some(4711));
    assert_eq!(back(Family::Long, "1.2.3.4"), Some(4711));
    assert!(passive_reply(Family::Plain, "::1".parse().unwrap(), 1).is_none());
}
