//! `session login` and `session trust`: as which user a gateway knows the broker, and which key a
//! directory has.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use stp_lookup::gateway::{LoginError, connect};
use stp_lookup::known::{Known, shown_key};
use stp_lookup::{AskError, Credential, DirectoryAddress, Gateway, KNOWN_FILE};
use stp_net::key::{Identity, PublicKey};
use stp_net::link::{DialError, LinkOptions, Tls};
use stp_proto::lookup::{Refusal, user_is_good};

use crate::args::{Login, Trust};
use crate::print::print;

/// The most bytes of a password.
const PASSWORD_BYTES_MAX: u64 = 4_096;

pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// A user at a gateway, `USER@GATEWAY`.
pub(crate) fn account(text: &str) -> anyhow::Result<(String, DirectoryAddress)> {
    let (user, gateway) = text
        .split_once('@')
        .with_context(|| format!("\"{text}\" is not of the form USER@GATEWAY"))?;
    if !user_is_good(user) {
        bail!("\"{user}\" is no user's name: 1 to 64 of a-z 0-9 . _ -");
    }
    Ok((user.to_owned(), gateway.parse().map_err(anyhow::Error::msg)?))
}

/// Logs in, and leaves the credential for the broker.
///
/// # Errors
/// When the gateway cannot be reached, is not the known one, or refuses.
pub fn login(args: &Login) -> anyhow::Result<ExitCode> {
    let (user, gateway) = account(&args.account)?;
    let folder = stp_lookup::folder().context("no place for credentials: set HOME")?;
    runtime()?.block_on(async {
        let known = Known::at(&folder.join(KNOWN_FILE));
        let key = trusted(&known, &gateway, args.key).await?;
        let password = password(&user, &gateway, args.password_stdin)?;
        let tls = Tls::new(&Identity::generate());
        let connection = connect(&gateway, &key, &tls, &LinkOptions::default()).await;
        let connection = connection.map_err(|error| explained(&gateway, error))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let login = Gateway::login_with_password(connection, &user, password, now).await;
        let (session, keys) = login.map_err(|error| explained(&gateway, error))?;
        let skew = session.skew_s();
        if skew.abs() > 60 {
            eprintln!("session: this machine's clock is {skew} s off the gateway's");
        }
        let credential = Credential { gateway: gateway.clone(), key, user: user.clone(), keys };
        let path = credential.store(&folder)?;
        print(&format!(
            "logged in as {user} at {gateway} (cluster {}); {}\n",
            session.cluster(),
            path.display()
        ))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Remembers the key of a directory.
///
/// # Errors
/// When it cannot be reached, or is known with another key.
pub fn trust(args: &Trust) -> anyhow::Result<ExitCode> {
    let folder = stp_lookup::folder().context("no place for known keys: set HOME")?;
    runtime()?.block_on(async {
        let known = Known::at(&folder.join(KNOWN_FILE));
        let key = trusted(&known, &args.place, args.key).await?;
        if args.key.is_none() {
            // It may have been known before, while another machine answers there now.
            let tls = Tls::new(&Identity::generate());
            let met = connect(&args.place, &key, &tls, &LinkOptions::default()).await;
            met.map_err(|error| explained(&args.place, error))?;
        }
        print(&format!("{} {key}\n", args.place))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// The error in words. If a key has changed it is said as `ssh` says it; otherwise it is the place
/// and what is wrong there.
pub(crate) fn explained(place: &DirectoryAddress, error: LoginError) -> anyhow::Error {
    let folder = stp_lookup::folder().unwrap_or_default().join(KNOWN_FILE);
    match error {
        LoginError::Dial(DialError::WrongKey { expected, found, .. }) => anyhow::anyhow!(
            "the key of {place} has changed: it shows {found}, and is known with {expected}. \
             Somebody may be in between. If it has really changed (ask who runs it), take its line \
             out of {} and log in again",
            folder.display()
        ),
        LoginError::Ask(AskError::Refused(refused)) if refused.why == Refusal::LoginRefused => {
            anyhow::anyhow!("{place} refuses the log-in: user and password do not fit")
        }
        error => anyhow::anyhow!("{place}: {error}"),
    }
}

/// The key of a place: the one given, the one known, or the one that the place shows and that the
/// user agrees to, as with ssh.
pub(crate) async fn trusted(
    known: &Known,
    place: &DirectoryAddress,
    given: Option<PublicKey>,
) -> anyhow::Result<PublicKey> {
    let before = known.key(place).context("known keys")?;
    match (given, before) {
        (Some(given), Some(before)) if given != before => bail!(
            "{place} is known with the key {before}, not {given}; if it has really changed, take \
             its line out of the file {KNOWN_FILE}"
        ),
        (None, Some(before)) => return Ok(before),
        (Some(given), Some(_)) => return Ok(given),
        (Some(given), None) => {
            known.add(place, &given)?;
            return Ok(given);
        }
        (None, None) => {}
    }
    let options = LinkOptions { timeout: Duration::from_secs(5), ..LinkOptions::default() };
    let addresses = place.resolve().await.with_context(|| place.to_string())?;
    let mut last = None;
    for address in addresses {
        match shown_key(address, &options).await {
            Ok(shown) => {
                agree(place, &shown)?;
                known.add(place, &shown)?;
                return Ok(shown);
            }
            Err(error) => last = Some(error),
        }
    }
    let error = last.context("the name has no address")?;
    Err(anyhow::anyhow!("{place}: {error}"))
}

fn agree(place: &DirectoryAddress, shown: &PublicKey) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!(
            "the key of {place} is not known; it shows {shown}: if that is right, say --key {shown}"
        );
    }
    eprint!("{place} is not known yet. It shows the key\n  {shown}\nIs that right (yes/no)? ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() != "yes" {
        bail!("not agreed");
    }
    Ok(())
}

fn password(user: &str, gateway: &DirectoryAddress, from_stdin: bool) -> anyhow::Result<String> {
    if from_stdin {
        let mut text = String::new();
        std::io::stdin().lock().take(PASSWORD_BYTES_MAX).read_to_string(&mut text)?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    rpassword::prompt_password(format!("Password of {user} at {gateway}: "))
        .context("the password is asked for on the terminal; without one use --password-stdin")
}
