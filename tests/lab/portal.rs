//! A network that wants a log-in before it leads anywhere, as those of hotels do.

use std::time::Duration;

use anyhow::Result;
use stp_tests::namespace::Namespace;
use stp_tests::nginx::Nginx;
use stp_tests::process::Plan;
use stp_tests::scene::Scene;

/// A network that wants a log-in first: it answers every TCP connection itself.
pub(crate) struct Portal {
    _nginx: Nginx,
}

impl Portal {
    /// Where it answers in plain HTTP, and by TLS.
    pub(crate) const PLAIN: u16 = 8080;
    pub(crate) const SECURE: u16 = 8443;

    pub(crate) fn start(scene: &Scene, host: &Namespace) -> Result<Portal> {
        let make = format!(
            "cd {}; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
             -days 2 -subj /CN=portal -keyout portal.key -out portal.pem",
            scene.dir().display()
        );
        let make = Plan::new("bash").called("openssl").args(&["-euc", &make]);
        make.run(scene, None, Duration::from_secs(20))?.ok()?;
        let (plain, secure) = (Portal::PLAIN, Portal::SECURE);
        let (key, pem) = (scene.path("portal.key"), scene.path("portal.pem"));
        let answers = format!(
            "server {{ listen {plain}; return 302 http://portal.example/login; }}\n\
             server {{ listen {secure} ssl; ssl_certificate {}; ssl_certificate_key {}; \
             return 302 http://portal.example/login; }}",
            pem.display(),
            key.display()
        );
        let root = scene.subdir("portal-root")?;
        let nginx = Nginx::start_at(scene, "portal", host, 8081, &root, &answers)?;
        Ok(Portal { _nginx: nginx })
    }

    /// All connections from this host end at the portal's port from now on.
    pub(crate) fn catch(scene: &Scene, host: &Namespace, port: u16) -> Result<()> {
        let rules = format!(
            "table ip portal\ndelete table ip portal\nadd table ip portal\n\
             add chain ip portal out {{ type nat hook output priority -100; }}\n\
             add rule ip portal out ip daddr != 127.0.0.0/8 ip protocol tcp redirect to :{port}\n"
        );
        let nft = Plan::new("nft").args(&["-f", "-"]).input(&rules);
        nft.run(scene, Some(host), Duration::from_secs(10))?.ok()?;
        Ok(())
    }

    /// The log-in is done.
    pub(crate) fn let_go(scene: &Scene, host: &Namespace) -> Result<()> {
        let nft = Plan::new("nft").args(&["delete", "table", "ip", "portal"]);
        nft.run(scene, Some(host), Duration::from_secs(10))?.ok()?;
        Ok(())
    }
}
