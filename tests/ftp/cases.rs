//! The part of the table that runs always.

use anyhow::{Result, ensure};
use stp_tests::scene::{Scene, play};

use crate::client::{Client, Mode, Operation};
use crate::fault::Fault;
use crate::table::cell;

fn good(name: &str, what: (Client, Mode, Operation), fault: Fault) {
    play(name, |scene| cell(scene, 40, what, fault)?.must_be_good());
}

/// An error is fine; success for a file that is not whole is not.
fn honest(scene: &Scene, what: (Client, Mode, Operation), fault: Fault) -> Result<()> {
    let outcome = cell(scene, 40, what, fault)?;
    ensure!(outcome.right || !outcome.told, "told of success: {}", outcome.said);
    Ok(())
}

macro_rules! good {
    ($($name:ident: $client:ident $mode:ident $operation:ident $fault:ident)*) => {$(
        #[test]
        fn $name() {
            let what = (Client::$client, Mode::$mode, Operation::$operation);
            good(concat!("ftp-", stringify!($name)), what, Fault::$fault);
        }
    )*};
}

good! {
    curl_gets: Curl Passive Retr None
    curl_through_a_cut: Curl Passive Retr Cut
    curl_to_a_new_address: Curl Passive Retr Address
    curl_after_its_server: Curl Passive Retr Server
    tnftp_lists: Tnftp Passive List None
    ncftp_after_its_ftp_server: Ncftp Passive Retr Ftp
    lftp_puts_through_a_cut: Lftp Passive Stor Cut
    wget_from_a_silent_machine: Wget Passive Retr Silent
    ftplib_active_after_its_server: Ftplib Active Retr Server
    inetutils_active: Inetutils Active Retr None
    ncftp_puts_actively: Ncftp Active Stor None
    ncftp_lists_actively_through_a_cut: Ncftp Active List Cut
    ncftp_gets_actively_from_another_server: Ncftp Active Retr Server
    curl_puts_to_an_ftp_server_that_dies: Curl Passive Stor Ftp
    tnftp_puts_actively_to_an_ftp_server_that_dies: Tnftp Active Stor Ftp
    busybox_from_a_drained_server: Busybox Passive Retr Drain
}

#[test]
fn an_upload_whose_server_dies_is_not_called_a_success() {
    play("ftp-upload-server", |scene| {
        honest(scene, (Client::Curl, Mode::Passive, Operation::Stor), Fault::Server)
    });
}
