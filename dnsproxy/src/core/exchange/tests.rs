mod answers;
mod bench;
mod queries;
mod table;
