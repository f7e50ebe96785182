mod behaviour;
mod ends;
mod limits;
mod stage;
mod table;
mod tunnels;
mod wire;
