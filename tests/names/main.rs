//! Names, log-in, tickets and files with the whole of Session on loopback: a directory, three
//! servers, a broker that knows nothing but the gateway's address and a user, unmodified curl, and
//! `session get`.

mod border;
mod directories;
mod files;
mod mistakes;
mod operating;
mod secrets;
mod sessions;
mod world;
