//! The tables `[[route]]`: what leads to which service, and what is left out.

use std::sync::Arc;

use serde::Deserialize;
use stp_net::config::{ConfigError, Loaded, Span};
use stp_proto::class::Class;
use stp_proto::lookup::EndpointName;
use stp_proto::pattern::Hosts;

use super::destination::{Destinations, Exception, NOT_ANY};
use super::service::Service;
use super::text::FromText;
use super::upkeep;
use crate::routes::{Freeze, Route, Routes};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRoute {
    to: Destinations,
    service: Option<String>,
    via: Option<String>,
    #[serde(default)]
    every_port: bool,
    #[serde(default)]
    freeze: Freeze,
    policy: Option<String>,
    class: Option<FromText<Class>>,
    hold: Option<Span>,
    idle: Option<Span>,
    endpoint: Option<FromText<EndpointName>>,
    /// What `to` holds and is not routed.
    #[serde(default)]
    except: Vec<FromText<Exception>>,
}

impl FileRoute {
    pub(super) fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
    }
}

/// The routes of the file, and its services with those that only routes name.
///
/// `via` finds the service of a far end by its name.
pub(super) fn read<F>(
    loaded: &Loaded<F>,
    given: &[FileRoute],
    mut services: Vec<Service>,
    via: impl Fn(&str) -> Result<Service, String>,
) -> Result<(Routes, Vec<Service>), ConfigError> {
    let mut routes = Vec::new();
    for (i, route) in given.iter().enumerate() {
        let wrong = |key: &str, what: String| loaded.error(&format!("route[{i}].{key}"), what);
        let place = place(route, &mut services, &via).map_err(|(key, what)| {
            if key.is_empty() {
                loaded.error(&format!("route[{i}]"), what)
            } else {
                wrong(key, what)
            }
        })?;
        let service = &services[place];
        if route.endpoint.is_some() && service.direct.is_some() {
            let what =
                format!("an endpoint is about links to servers, and {} has none", service.name);
            return Err(wrong("endpoint", what));
        }
        if let Some(wide) = route.to.0.iter().map(|(_, to)| to).find(|to| to.port.is_none())
            && !route.every_port
            && service.direct.is_none()
            && !service.egress
        {
            let what = format!(
                "{wide} leads every port to the one port of {}: name the port that is meant, \
                 such as :80, or say every_port = true if the service is the same on all of them",
                service.name
            );
            return Err(wrong("to", what));
        }
        let upkeep = upkeep::read(route.class.as_ref(), route.hold, route.idle);
        let upkeep = upkeep.map_err(|(key, what)| wrong(key, what))?.or(service.upkeep);
        for (written, to) in &route.to.0 {
            let except = except(route, &to.hosts, service).map_err(|what| wrong("except", what))?;
            routes.push(Route {
                to: to.clone(),
                written: Arc::clone(written),
                service: place,
                line: i,
                freeze: route.freeze,
                policy: route.policy.clone().or_else(|| service.policy.clone()),
                upkeep,
                endpoint: route.endpoint.as_ref().map(|name| name.0.to_string()),
                except,
                is_resolved_there: service.egress,
            });
        }
    }
    Ok((Routes::new(routes), services))
}

/// The place of the service to which the route leads; which key is wrong, and why.
fn place(
    route: &FileRoute,
    services: &mut Vec<Service>,
    via: impl Fn(&str) -> Result<Service, String>,
) -> Result<usize, (&'static str, String)> {
    let at = |services: &[Service], name: &str| services.iter().position(|s| s.name == name);
    match (&route.service, &route.via) {
        (Some(name), None) => at(services, name)
            .ok_or_else(|| ("service", format!("no [[service]] is called \"{name}\""))),
        (None, Some(name)) => {
            let service = via(name).map_err(|what| ("via", what))?;
            if let Some(place) = at(services, &service.name) {
                return Ok(place);
            }
            services.push(service);
            Ok(services.len() - 1)
        }
        _ => Err(("", "a route has one of them: service, or via".to_owned())),
    }
}

/// What these hosts hold and is left out.
fn except(route: &FileRoute, hosts: &Hosts, service: &Service) -> Result<Arc<[Hosts]>, String> {
    let mut except: Vec<Hosts> = route.except.iter().flat_map(|one| one.0.0.clone()).collect();
    let of_names = |one: &&Hosts| matches!(one, Hosts::Name(_) | Hosts::Below(_));
    match hosts {
        Hosts::Any if !service.egress => {
            // `localhost` stands for addresses as well.
            let name = route.except.iter().filter(|one| one.0.0.len() == 1);
            if let Some(name) = name.flat_map(|one| &one.0.0).find(of_names) {
                return Err(format!(
                    "the name {name} is looked up before it is seen here: only what leads to an \
                     egress can leave out names"
                ));
            }
        }
        Hosts::Name(_) | Hosts::Below(_) => {
            if !except.iter().all(|one| of_names(&one)) {
                return Err(format!("addresses cannot be left out of the name {hosts}"));
            }
        }
        Hosts::Any | Hosts::Net(_) => {}
    }
    if *hosts == Hosts::Any {
        let usual = NOT_ANY.iter().map(|text| text.parse().expect("a constant is right"));
        except.extend(usual);
    }
    Ok(except.into())
}
