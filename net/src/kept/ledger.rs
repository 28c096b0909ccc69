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
    /// The record in use: 0 none, 1 and 2 its place.
    Record,
    /// The length of the record at this place.
    Length(usize),
}

/// The page.
pub trait Page {
    /// The number that was written there last.
    fn load(&self, word: Word) -> u64;

    /// Writes it, behind everything that was written before.
    fn store(&self, word: Word, value: u64);

    /// The record at a place; none if there cannot be one of that length.
    fn read_record(&self, place: usize, length: u64) -> Option<Vec<u8>>;

    /// Writes a record at a place, not all at once.
    fn write_record(&self, place: usize, bytes: &[u8]);
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

/// The record that was put last.
pub fn record(page: &impl Page) -> Option<Vec<u8>> {
    let place = match page.load(Word::Record) {
        1 => 0,
        2 => 1,
        _ => return None,
    };
    page.read_record(place, page.load(Word::Length(place)))
}

/// Puts another record in the place of the one before the last one, which is whole until this one
/// is.
pub fn put_record(page: &impl Page, bytes: &[u8]) {
    let place = usize::from(page.load(Word::Record) == 1);
    page.write_record(place, bytes);
    page.store(Word::Length(place), bytes.len() as u64);
    page.store(Word::Record, place as u64 + 1);
}
