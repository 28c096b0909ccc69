//! Deliberate mistakes, to see whether the tests notice them (feature `model`, which is never on in
//! what is shipped): mistakes in the rules of the session for the model checker, and mistakes in
//! what drives sessions for the simulation. Without the feature `mutant!(Name, right, wrong)` is
//! `right` and nothing else, and `mutant!(Name => wrong)` is nothing at all.

#[cfg(feature = "model")]
mod chosen {
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    macro_rules! mutants {
        (
            rules { $($name:ident: $mistake:literal,)* }
            drivers { $($driver:ident: $driven:literal,)* }
            groups { $($group:ident: $grouped:literal,)* }
            courses { $($course:ident: $taken:literal,)* }
            remains { $($left:ident: $restored:literal,)* }
            pages { $($page:ident: $misread:literal,)* }
            holds { $($agreed:ident: $kept:literal,)* }
            upkeep { $($granted:ident: $broken:literal,)* }
            pressure { $($dropped_first:ident: $favoured:literal,)* }
            trickle { $($drop:ident: $dropped:literal,)* }
            policies { $($way:ident: $gone:literal,)* }
            carried { $($case:ident: $misled:literal,)* }
        ) => {
            /// A mistake.
            #[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
            pub enum Mutant {
                $(#[doc = $mistake] $name,)*
                $(#[doc = $driven] $driver,)*
                $(#[doc = $grouped] $group,)*
                $(#[doc = $taken] $course,)*
                $(#[doc = $restored] $left,)*
                $(#[doc = $misread] $page,)*
                $(#[doc = $kept] $agreed,)*
                $(#[doc = $broken] $granted,)*
                $(#[doc = $favoured] $dropped_first,)*
                $(#[doc = $dropped] $drop,)*
                $(#[doc = $gone] $way,)*
                $(#[doc = $misled] $case,)*
            }

            impl Mutant {
                /// Those in the rules of the session.
                pub const RULES: &[Mutant] = &[$(Mutant::$name,)*];

                /// Those in the driver, the choice of servers and the HTTP service.
                pub const DRIVERS: &[Mutant] = &[$(Mutant::$driver,)*];

                /// Those in what is announced of a group, and in the FTP service.
                pub const GROUPS: &[Mutant] = &[$(Mutant::$group,)*];

                /// Those in a session's course through its servers.
                pub const COURSES: &[Mutant] = &[$(Mutant::$course,)*];

                /// Those in what is left when a process dies.
                pub const REMAINS: &[Mutant] = &[$(Mutant::$left,)*];

                /// Those in how the page is read that outlives a process.
                pub const PAGES: &[Mutant] = &[$(Mutant::$page,)*];

                /// Those in what both ends have agreed on.
                pub const HOLDS: &[Mutant] = &[$(Mutant::$agreed,)*];

                /// Those in how well a session is kept, and through which suspensions.
                pub const UPKEEP: &[Mutant] = &[$(Mutant::$granted,)*];

                /// Those in who is given up first.
                pub const PRESSURE: &[Mutant] = &[$(Mutant::$dropped_first,)*];

                /// Those in how fast is taken from a service whose session is away.
                pub const TRICKLE: &[Mutant] = &[$(Mutant::$drop,)*];

                /// Those in over which interfaces a session goes.
                pub const POLICIES: &[Mutant] = &[$(Mutant::$way,)*];

                /// Those in what is carried to another machine.
                pub const CARRIED: &[Mutant] = &[$(Mutant::$case,)*];

                /// What is done wrong.
                pub fn mistake(self) -> &'static str {
                    match self {
                        $(Mutant::$name => $mistake,)*
                        $(Mutant::$driver => $driven,)*
                        $(Mutant::$group => $grouped,)*
                        $(Mutant::$course => $taken,)*
                        $(Mutant::$left => $restored,)*
                        $(Mutant::$page => $misread,)*
                        $(Mutant::$agreed => $kept,)*
                        $(Mutant::$granted => $broken,)*
                        $(Mutant::$dropped_first => $favoured,)*
                        $(Mutant::$drop => $dropped,)*
                        $(Mutant::$way => $gone,)*
                        $(Mutant::$case => $misled,)*
                    }
                }
            }
        };
    }

    mutants! {
        rules {
        NoEpochCheck: "a RESUME with an old epoch is accepted",
        SameEpoch: "an attempt does not take a new epoch",
        ConnectAnyEpoch: "a repeated CONNECT with an old epoch is accepted",
        NoConfirm: "an answered cut counts as confirmed",
        NoConfirmAtResume: "the confirm after RESUME_OK is not sent",
        BothYield: "both ends drop their own proposal when two collide",
        NeitherYields: "neither end drops its own proposal when two collide",
        OfferTentative: "a tentative cut is offered at a resume",
        CutAhead: "a cut is proposed at the end of what was written, not of what was sent",
        NoRollBack: "a resume does not go back to the peer's position",
        RollBackTooFar: "a resume goes back one byte too far",
        RollBackTooShort: "a resume goes back one byte too short",
        FreeReceived: "what the peer received is freed, not what it acknowledged",
        FreeSent: "bytes are freed when they are sent",
        AckUnjournaled: "a replayable server acknowledges before its ticket is out",
        TicketAtOnce: "a ticket sent at the position heard counts as held",
        TicketNotAgain: "a ticket lost with its link is not sent again",
        TicketKeptBack: "a transfer offers one byte more than the ticket covers",
        OldLinkKept: "the old link stays when a RESUME is accepted",
        NoWindow: "the peer's limit is ignored",
        NoWindowUpdate: "a grown limit is not told",
        WindowFromReceived: "the limit counts from what was received, not from what was delivered",
        DeliverTwice: "what the near side took of the buffer is not taken out of it",
        FinEarly: "FIN is sent before the last byte",
        FinNotAgain: "FIN is not sent again after a resume",
        FinUndrained: "the near side is told the end before it took everything",
        DoneEarly: "a session counts as complete before the peer has everything",
        DoneNoAck: "DONE does not stand for a CLOSE ACK that was lost",
        OldEndOwed: "the end of an old server's stream is acknowledged to the new one",
        OldEndUnknown: "a server does not know that its predecessor ended the stream",
        AnswerAfterReset: "a request is answered after the last word",
        DeniedResetUntold: "a reset that met a denial is not told again",
        ConnectUnanswered: "a repeated CONNECT of a suspended or reset session is not answered",
        ReuseEarly: "the link is given back before the acceptor's DONE",
        NoTombstone: "an ended session is forgotten",
        NoSlowProbe: "a side that waits for the other's user never asks",
        SuspendedAccepts: "a suspended end accepts a RESUME",
        ResetUntold: "an end that aborted without a link does not tell the other",
        BesideSends: "bytes the other server was not told of are sent to the old one",
        UrgentNotAgain: "an urgent byte is not announced again with its DATA",
        UrgentDropped: "an urgent byte that came loses its mark with the link",
        DenyAndClose: "a link is closed at once after a denial, which may not arrive",
        }
        drivers {
        FinUntold: "the near side's end of stream is not told to the session",
        GoneUntold: "a near side that takes no more is not told to the session",
        DeadlineUntold: "a session is not told that its deadline has passed",
        DialFailedUntold: "a session is not told that a dial failed",
        ActDropped: "what the far side wants done is not done",
        PausedRead: "a link is read while another server is asked",
        NextWordsRead: "what came for the next session on a link is given to the last one",
        LastWordKept: "the last word on a link that is given back is not sent",
        SlowIsDead: "a slow link is given up, though its bytes are acknowledged",
        GraceUnbounded: "a home that is silent is waited for without end",
        LeftAgain: "the server that a user wants to leave is chosen again",
        ListIgnored: "a server that is overloaded is asked again at once",
        RefusalForgotten: "a server that cannot have a session is asked for ever",
        NeverGivesUp: "a new session tries for ever where every server refuses",
        CoolDownIgnored: "a session moves again for the sake of speed at once",
        MeasuredIgnored: "a session leaves a slow server for one that is as slow",
        RelayUnused: "a session bound to its home is not led there through a relay",
        NeverStraight: "a session that is led through a relay stays there",
        PrepareUntold: "the server that would be next is not told what a session receives",
        FollowedTooFar: "a response that is followed is read beyond what the app has",
        FollowedForgotten: "a response that was followed is asked for again when it is needed",
        NoProber: "a server that was out of reach is not tried again",
        SeamSkipped: "the answer of another replica is joined without being compared",
        AckBeforeTicket: "what the app sent is acknowledged before a ticket covers it",
        GuardSkipped: "a request that may have been executed before is sent again",
        NoTicketForHead: "no ticket goes before a response head",
        GivesUpUnique: "a session is given up whose bytes nobody can have again",
        AheadUnbounded: "a session reads ahead of what it can send",
        TombForgotten: "a RESUME of a session that has ended is answered as if there had been none",
        }
        groups {
        AnnouncedTwice: "what is announced again is carried out again",
        AwaitedOfAnybody: "what was announced to one program is for another as well",
        AnnounceNotAgain: "an announcement lost with its link is not made again",
        AnnounceLate: "an announcement stands behind the byte it belongs before",
        TicketFirst: "a ticket stands before the announcement that it counts on",
        SuccessBeforeData: "success is told before the data have arrived",
        PortForgotten: "a server that takes over does not expect what was agreed upon",
        }
        courses {
        DecidesAgain: "a session that is asked to leave decides although it is on its way already",
        ChangeKept: "what was decided is kept when the link is lost",
        RefuserKept: "a server that refused a move is asked for it again",
        RestForgotten: "a session with a failed service ends when another server did not catch up",
        MeanwhileForgotten: "what a server asks during another decision is forgotten",
        MuteHomeFirst: "a home that accepts links and answers nothing is asked first for ever",
        StayUntold: "a server that asked to be left is not told that the session stays",
        ListedChosen: "a move leads to a server that is to be left alone",
        WishForgotten: "a user's wish to leave a server is lost with the link",
        HomeKept: "a home that has forgotten a session is asked to resume it again",
        LinkedGivenUp: "a session is given up while it has a link",
        CoolDownUnset: "no time of rest begins after a move for the sake of speed",
        }
        remains {
        UnaStale: "a restored end has lost the first byte that is not acknowledged",
        LookedAtForgotten: "a byte that was handed on before it was read is taken twice",
        HeldForgotten: "what was received and not delivered is lost with the process",
        CutsForgotten: "a restored end does not know the cuts",
        EndStale: "a restored end believes the state, not the kernel, how much it has taken",
        GivenStale: "a restored end delivers again what the near side took last",
        }
        pages {
        RecordStale: "the older of the two records is read",
        CallUncounted: "what the last call has moved is not counted",
        PositionAhead: "a position is read as one byte more",
        }
        holds {
        HoldForgotten: "an end keeps a session for longer than was agreed",
        }
        upkeep {
        SuspensionForgotten: "a session is not kept for the time for which its peer is suspended",
        SuspensionUnbounded: "a session is kept for as long as its peer likes",
        ClassUnbounded: "an acceptor grants whatever class is asked for",
        }
        pressure {
        ClassIgnored: "under pressure a session goes whatever its class",
        }
        trickle {
        SpoolUnbounded: "more is taken of a service than its spool may hold",
        StepTooSmall: "what is taken at once does not wake a service that waits for room",
        TrickleLate: "a service is left waiting for longer than it is known to wait",
        }
        policies {
        NeverIgnored: "a link leaves over an interface that its policy forbids",
        HeldForever: "a session stays suspended though its policy allows an interface again",
        WorseIsKept: "a session stays where it is though a better interface has come up",
        }
        carried {
        FrozenActive: "an end is saved that is not suspended",
        TicketLeftBehind: "the newest ticket is not saved with its session",
        CopyAsksAgain: "a copy that comes second asks again with a greater epoch",
        }
    }

    impl Mutant {
        /// The mistake that is made on this thread from now on.
        pub fn set(mutant: Option<Mutant>) {
            CHOSEN.set(mutant);
        }

        /// Whether it is the mistake that is made on this thread.
        #[must_use]
        pub fn is_set(self) -> bool {
            CHOSEN.get() == Some(self)
        }
    }
}

#[cfg(feature = "model")]
pub use chosen::Mutant;

/// What is right, or what is wrong if that mistake is made.
#[cfg(feature = "model")]
#[macro_export]
macro_rules! mutant {
    ($name:ident, $right:expr, $wrong:expr) => {
        if $crate::mutant::Mutant::$name.is_set() { $wrong } else { $right }
    };
    ($name:ident => $wrong:expr) => {
        if $crate::mutant::Mutant::$name.is_set() {
            $wrong
        }
    };
}

/// What is right.
#[cfg(not(feature = "model"))]
#[macro_export]
macro_rules! mutant {
    ($name:ident, $right:expr, $wrong:expr) => {
        $right
    };
    ($name:ident => $wrong:expr) => {};
}

pub(crate) use mutant;
