//! The order in which a page of counts is written and read, so that it is right whenever the
//! process that writes it dies: after any store, and in any call that moves bytes. Nothing here
//! touches memory, so that the model can let a process die at each store.

/// A direction of the socket, as the daemon sees it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Way {
    /// Bytes read from it.
    Read,
    /// Bytes that it has taken.
    Written,
}

/// A text that changes, of which the page has two places.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Text {
    /// The state of a session, short.
    Record,
    /// What it needs elsewhere, long.
    Note,
}

/// A number in the page. It is read and written whole.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Word {
    /// The slot of the last call: 0 or 1.
    InUse(Way),
    /// Where the stream was when the call of this slot began.
    Began(Way, usize),
    /// What the call of this slot has moved. The kernel writes it.
    Moved(Way, usize),
    /// What lies below this position in the ring of the way down, and was not written to the
    /// socket, is there.
    HeldUntil,
    /// The place in use of a text: 0 none, 1 the first, 2 the second.
    Place(Text),
    /// The length of what stands at a place of it.
    Length(Text, usize),
}

/// The page.
pub trait Page {
    /// The number that was written there last.
    fn load(&self, word: Word) -> u64;

    /// Writes it, behind everything that was written before.
    fn store(&self, word: Word, value: u64);

    /// What stands at a place of a text; none if there cannot be so much.
    fn read_text(&self, text: Text, place: usize, length: u64) -> Option<Vec<u8>>;

    /// Writes there, not all at once.
    fn write_text(&self, text: Text, place: usize, bytes: &[u8]);
}

/// How far a stream is.
pub fn position(page: &impl Page, way: Way) -> u64 {
    let slot = in_use(page, way);
    page.load(Word::Began(way, slot)) + page.load(Word::Moved(way, slot))
}

/// Takes the other slot into use, for a call that begins `more` bytes behind where the stream is.
pub fn begin(page: &impl Page, way: Way, more: u64) -> usize {
    let at = position(page, way) + more;
    let slot = 1 - in_use(page, way);
    page.store(Word::Began(way, slot), at);
    page.store(Word::Moved(way, slot), 0);
    page.store(Word::InUse(way), slot as u64);
    slot
}

fn in_use(page: &impl Page, way: Way) -> usize {
    usize::from(page.load(Word::InUse(way)) & 1 == 1)
}

/// Which place of a text is in use.
pub fn place(page: &impl Page, text: Text) -> Option<usize> {
    match page.load(Word::Place(text)) {
        1 => Some(0),
        2 => Some(1),
        _ => None,
    }
}

/// The text that was put last.
pub fn text(page: &impl Page, text: Text) -> Option<Vec<u8>> {
    let place = place(page, text)?;
    page.read_text(text, place, page.load(Word::Length(text, place)))
}

/// Puts another text in the place that is not in use, so that the last one is whole until this one
/// is.
pub fn put_text(page: &impl Page, text: Text, bytes: &[u8]) {
    let other = usize::from(place(page, text) == Some(0));
    page.write_text(text, other, bytes);
    page.store(Word::Length(text, other), bytes.len() as u64);
    page.store(Word::Place(text), other as u64 + 1);
}
