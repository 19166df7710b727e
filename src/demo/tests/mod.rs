mod endpoint;
mod instance;
mod tour;
