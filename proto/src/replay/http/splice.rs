//! Joining the body of another answer to the one the app has part of.

use super::body::Framing;
use super::chunks::{Base, Cutter};
use super::translate::{Decoded, Decoder};
use crate::mutant::mutant;
use crate::replay::{NoReplay, NoReplayKind};
use crate::seam::{BLOCK, Seam, SeamMismatch, SeamProof, Verifier};

/// What a step of a [`Splice`] came upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpliceStep {
    /// All bytes were compared or skipped; more must come.
    More,
    /// Everything the app has is the same here: call [`Splice::into_joined`].
    Joined,
}

/// What is known of a stream that stands at the byte that the app has.
#[derive(Debug)]
pub struct Joined {
    /// For the app, as it stands in its stream: the rest of a chunk that it has begun.
    pub(super) begun: Vec<u8>,
    /// The body that was read behind that.
    pub(super) ahead: Vec<u8>,
    /// Follows what comes of the service.
    pub(super) decoder: Decoder,
    /// Frames the body for the app, if that gets it in chunks.
    pub(super) cutter: Option<Cutter>,
    /// The digest of what the app has.
    pub(super) seam: Option<Seam>,
    /// The same, of chunks: of the stream from their base on.
    pub(super) had: Option<Seam>,
    /// Body bytes for the app behind that byte; none: until the body of the answer ends.
    pub(super) left: Option<u64>,
    /// Another request may follow on this stream after the response.
    pub reusable: bool,
}

impl Joined {
    /// The body that was read behind what the app has.
    #[must_use]
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }
}

#[cfg(test)]
impl Joined {
    /// Behind what the app has of a mere body.
    pub(super) fn plain(ahead: &[u8], left: Option<u64>) -> Self {
        Self {
            begun: Vec::new(),
            ahead: ahead.to_vec(),
            decoder: Decoder::new(left.map_or(Framing::Close, Framing::Length)),
            cutter: None,
            seam: None,
            had: None,
            left,
            reusable: true,
        }
    }
}

/// What the app has of a body, and how it is compared.
#[derive(Debug, Clone)]
pub(super) enum Had {
    /// The mere body, with the proof of it (none: nothing can be compared).
    Plain(Option<SeamProof>),
    /// The mere body, of which a part was compared before.
    Known(Box<Verifier>),
    /// Chunks, counted from a base, with the proof of the stream from the base on (none: the app
    /// has nothing behind the base).
    Chunks(Base, Option<SeamProof>),
    /// The mere body, at another server: it is only digested here, up to where the app is.
    Follows,
}

/// Chunks that are made like those that the app has.
#[derive(Debug)]
struct Again {
    base: Base,
    cutter: Option<Cutter>,
    /// What is made is compared with this.
    check: Option<Verifier>,
    /// The digest of what was compared.
    had: Option<Seam>,
}

/// Compares the front of a body with the proof of what the app has.
#[derive(Debug)]
pub struct Splice {
    decoder: Decoder,
    /// Body bytes that come before anything comparable.
    skip: u64,
    /// The body is compared with this.
    check: Option<Verifier>,
    again: Option<Again>,
    seam: Option<Seam>,
    /// Nothing is compared yet.
    follows: bool,
    /// For the app: stream bytes of chunks, and body bytes behind all that was compared.
    begun: Vec<u8>,
    ahead: Vec<u8>,
    left: Option<u64>,
    /// Body bytes of the answer behind those, which the app must not see.
    excess: u64,
    keep_alive: bool,
}

impl Splice {
    /// `skip` body bytes of the answer come before the first that can be compared (or, with
    /// nothing to compare, before the first for the app); then `left` are for the app and `excess`
    /// for nobody.
    pub(super) fn new(
        decoder: Decoder,
        skip: u64,
        had: Had,
        (left, excess): (Option<u64>, u64),
        keep_alive: bool,
    ) -> Self {
        let follows = matches!(had, Had::Follows);
        let (check, again) = match had {
            Had::Plain(proof) => (proof.map(Verifier::new), None),
            Had::Known(check) => (Some(*check), None),
            Had::Chunks(base, proof) => {
                let before = Some(base.proof()).filter(|_| base.body > 0);
                let check = proof.map(Verifier::new);
                (before.map(Verifier::new), Some(Again { base, cutter: None, check, had: None }))
            }
            Had::Follows => (None, None),
        };
        let (begun, ahead) = (Vec::new(), Vec::new());
        let seam = follows.then(|| Seam::new(0, BLOCK));
        Self { decoder, skip, check, again, seam, follows, begun, ahead, left, excess, keep_alive }
    }

    /// Bytes of the body that were digested without being compared.
    #[must_use]
    pub fn followed(&self) -> Option<u64> {
        self.seam.as_ref().filter(|_| self.follows).map(Seam::position)
    }

    /// Goes on from where `before` stands in the body of the same answer. What it digested counts
    /// as compared as soon as the verdict on the whole is good. None if the two do not fit.
    #[must_use]
    pub fn goes_on_from(self, before: Self) -> Option<Self> {
        let digested = before.seam.filter(|_| before.follows && before.skip == 0)?;
        let check = self.check.filter(|_| self.skip == 0 && self.again.is_none())?;
        let check = check.behind(digested)?;
        Some(Self { check: Some(check), decoder: before.decoder, ..self })
    }

    /// Takes bytes of the answer behind its head; call it with none before the first.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<SpliceStep, NoReplay> {
        self.compare(&[])?;
        let mut data = Vec::new();
        let decoded = self.decoder.take(bytes, |part| data.extend_from_slice(part));
        self.compare(&data)?;
        match decoded {
            Decoded::Broken(_) => Err(mismatch("the answer's chunks cannot be followed")),
            Decoded::Over(taken) if taken < bytes.len() => {
                Err(mismatch("the service sent more than it said"))
            }
            Decoded::Over(_) if !self.follows => self.ended(),
            Decoded::Over(_) | Decoded::More => self.verdict(),
        }
    }

    /// The answer's body has ended: by its framing, or, if it is one that [ends with its
    /// stream](Splice::until_close), by that.
    pub fn ended(&mut self) -> Result<SpliceStep, NoReplay> {
        let compared = self.skip == 0 && self.check.is_none();
        if let Some(cutter) = self.again.as_mut().and_then(|again| again.cutter.as_mut()) {
            let mut made = Vec::new();
            cutter.end(self.decoder.trailers(), &mut made);
            self.made(&made)?;
        }
        self.decoder = Decoder::new(Framing::Empty);
        match self.verdict()? {
            SpliceStep::More => {
                let text = if compared { "the answer differs" } else { "the answer is shorter" };
                let text = format!("{text} than what the app has");
                Err(NoReplay::new(NoReplayKind::Seam, text))
            }
            SpliceStep::Joined => Ok(SpliceStep::Joined),
        }
    }

    /// The answer's body ends with its stream.
    #[must_use]
    pub fn until_close(&self) -> bool {
        self.decoder.until_close()
    }

    /// Compares what the answer's body says, and keeps what is for the app.
    fn compare(&mut self, mut data: &[u8]) -> Result<(), NoReplay> {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(data.len());
        self.skip -= u64::try_from(skipped).unwrap_or(u64::MAX);
        data = &data[skipped..];
        if self.skip > 0 {
            return Ok(());
        }
        if let Some(seam) = self.seam.as_mut().filter(|_| self.follows) {
            seam.update(seam.position(), data);
            return Ok(());
        }
        if let Some(check) = &mut self.check {
            let compared = push(check, data).map_err(differs)?;
            if check.missing() > 0 {
                return Ok(());
            }
            data = &data[compared..];
            self.seam = Some(check.continued());
            finish(self.check.take()).map_err(differs)?;
        }
        let Some(again) = &mut self.again else {
            self.ahead.extend_from_slice(data);
            return Ok(());
        };
        let (base, seam) = (&again.base, &mut self.seam);
        let cutter = again.cutter.get_or_insert_with(|| {
            let seam = seam.take().unwrap_or_else(|| Seam::new(0, BLOCK));
            Cutter::new(base.clone(), seam)
        });
        let mut made = Vec::new();
        cutter.push(data, &mut made);
        self.made(&made)
    }

    /// Compares stream bytes with those that the app has, and keeps what is behind them.
    fn made(&mut self, made: &[u8]) -> Result<(), NoReplay> {
        let Some(again) = &mut self.again else { return Ok(()) };
        let mut compared = 0;
        if let Some(check) = &mut again.check {
            compared = push(check, made).map_err(differs)?;
            if check.missing() == 0 {
                again.had = Some(check.continued());
                finish(again.check.take()).map_err(differs)?;
            }
        }
        self.begun.extend_from_slice(&made[compared..]);
        Ok(())
    }

    fn verdict(&self) -> Result<SpliceStep, NoReplay> {
        let unsure = self.again.as_ref().is_some_and(|again| again.check.is_some());
        if self.skip > 0 || self.check.is_some() || unsure || self.follows {
            return Ok(SpliceStep::More);
        }
        let left = self.left.and_then(|left| usize::try_from(left).ok()).unwrap_or(usize::MAX);
        if self.ahead.len() > left && self.excess == 0 {
            return Err(mismatch("the service sent more than it said"));
        }
        Ok(SpliceStep::Joined)
    }

    /// What is known of the stream, after it has joined.
    #[must_use]
    pub fn into_joined(self) -> Joined {
        let left = self.left.and_then(|left| usize::try_from(left).ok()).unwrap_or(usize::MAX);
        let mut ahead = self.ahead;
        ahead.truncate(left);
        let (cutter, had) = self.again.map_or((None, None), |again| (again.cutter, again.had));
        Joined {
            begun: self.begun,
            ahead,
            decoder: self.decoder,
            cutter,
            seam: self.seam,
            had,
            left: self.left,
            reusable: self.keep_alive && self.excess == 0,
        }
    }
}

fn push(check: &mut Verifier, bytes: &[u8]) -> Result<usize, SeamMismatch> {
    mutant!(SeamSkipped, check.push(bytes), {
        let missing = usize::try_from(check.missing()).unwrap_or(usize::MAX);
        let _differs = check.push(bytes);
        Ok(missing.min(bytes.len()))
    })
}

fn finish(check: Option<Verifier>) -> Result<(), SeamMismatch> {
    let same = check.map_or(Ok(()), Verifier::finish);
    mutant!(SeamSkipped, same, Ok(()))
}

fn differs(mismatch: SeamMismatch) -> NoReplay {
    NoReplay::new(NoReplayKind::Seam, mismatch.to_string())
}

fn mismatch(text: &str) -> NoReplay {
    NoReplay::new(NoReplayKind::Mismatch, text)
}
