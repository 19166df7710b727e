mod endpoint;
mod instance;
