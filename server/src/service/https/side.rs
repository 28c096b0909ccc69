//! What goes to the app's side goes into records first.

use std::io;

use stp_proto::replay;
use stp_proto::replay::http::Offer;
use stp_proto::session::{Session, TicketOffer};
use stp_proto::state::State;
use stp_proto::time::Instant;
use stp_proto::wire::TransferReason;
use stp_tls::reader::Reader;
use stp_tls::writer::{Desk, Standing, Ticket, Writer};

use crate::service::http::{Read, Side};
use crate::ticket::{Seal, unix_now};

/// TLS after the handshake.
pub(super) struct Open {
    pub reader: Reader,
    pub writer: Writer,
}

/// TLS before a session, or before one that is not there yet.
pub(super) struct Sealed<'a> {
    pub open: &'a mut Open,
    /// Where it goes.
    pub session: Option<(Instant, &'a mut Session)>,
    /// Tickets that are made before there is a session.
    pub tickets: &'a mut Vec<TicketOffer>,
}

impl Sealed<'_> {
    /// Lets the writer do something for which it may need tickets.
    fn at_desk<M: Seal, T>(
        &mut self,
        mint: Option<&M>,
        work: impl FnOnce(&mut Writer, &mut Desk<'_>) -> T,
    ) -> T {
        let Open { reader, writer } = &mut *self.open;
        let (session, tickets) = (&mut self.session, &mut *self.tickets);
        let mut issue = |ticket| match mint.and_then(|mint| sealed(mint, ticket)) {
            Some(offer) => {
                match session {
                    Some((_, session)) => session.offer_ticket(offer),
                    None => tickets.push(offer),
                }
                true
            }
            None => false,
        };
        work(writer, &mut Desk { reader, issue: &mut issue, now: unix_now() })
    }

    /// A response is whole.
    pub fn complete(&mut self, mint: Option<&impl Seal>) {
        self.at_desk(mint, Writer::complete);
    }

    /// What waits goes out.
    pub fn flush(&mut self, mint: Option<&impl Seal>) {
        self.at_desk(mint, Writer::flush);
    }

    /// Nothing more goes to the app.
    pub fn close(&mut self, mint: Option<&impl Seal>) {
        self.at_desk(mint, Writer::close);
    }

    /// Takes this plaintext.
    pub fn write(&mut self, mint: Option<&impl Seal>, plain: &[u8]) {
        self.at_desk(mint, |writer, desk| writer.write(desk, plain));
    }

    /// An exchange can be continued from here on.
    pub fn stand(&mut self, mint: &impl Seal, standing: Standing) -> bool {
        let covers = standing.covers;
        let made = self.at_desk(Some(mint), |writer, desk| writer.stand(desk, standing));
        self.open.reader.forget(covers);
        made
    }
}

/// The ticket as the session takes it; none if it is too long.
fn sealed(mint: &impl Seal, ticket: Ticket) -> Option<TicketOffer> {
    let Ticket { at, covers, exchange } = ticket;
    let (transferable, ticket) = match exchange {
        Ok(mut exchange) => {
            let seal = |exchange| mint.seal((covers, at), replay::Exchange::Https(exchange));
            let mut ticket = seal(exchange.clone());
            if ticket.is_empty()
                && let Some(short) = exchange.http.shortened()
            {
                exchange.http = short;
                ticket = seal(exchange);
            }
            (true, ticket)
        }
        Err(why) => (false, why.into_bytes()),
    };
    let offer = TicketOffer { at, covers, seam_from: at, transferable, ticket };
    (!offer.ticket.is_empty()).then_some(offer)
}

impl<M: Seal> Side<M> for Sealed<'_> {
    fn fill(&mut self, mint: Option<&M>, read: &mut Read<'_>) -> io::Result<usize> {
        self.at_desk(mint, |writer, desk| writer.fill(desk, read))
    }

    fn offer(&mut self, mint: &M, offer: Offer) -> bool {
        let Offer { at, covers, seam_from, exchange } = offer;
        match exchange {
            Ok(http) => self.stand(mint, Standing { at, covers, from: seam_from, http }),
            Err(why) => {
                self.at_desk(Some(mint), |writer, desk| writer.disclaim(desk, covers, why));
                self.open.reader.forget(covers);
                true
            }
        }
    }

    fn release(&mut self, covers: u64) {
        if let Some((_, session)) = &mut self.session {
            session.release_acks(self.open.reader.place(covers).at);
        }
        self.open.reader.forget(covers);
    }

    fn leave(&mut self, text: &str) -> bool {
        let Some((_, session)) = &mut self.session else { return false };
        session.request_transfer(TransferReason::ServiceFailed, text);
        session.state() == State::Active
    }
}
