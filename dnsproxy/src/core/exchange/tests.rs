mod answers;
mod bench;
mod local;
mod queries;
mod table;
