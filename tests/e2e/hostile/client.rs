//! A client with keys that stand, which then says what no honest client says.

use std::net::SocketAddr;
use std::time::Duration;

use ssh_broker::transport::wire::{put_string, put_u32};
use ssh_broker::transport::{Connection, Leg, Preferences, TransportError, msg};
use ssh_key::PrivateKey;
use ssh_key::private::Ed25519Keypair;
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;

/// Before which the broker must have answered or closed.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A key that nobody has put into any file.
pub fn stranger(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

pub struct Client(pub Connection<TcpStream>);

/// The fields of a message, put together.
#[derive(Clone)]
pub struct Message(pub Vec<u8>);

impl Message {
    pub fn new(number: u8) -> Self {
        Self(vec![number])
    }

    pub fn text(mut self, text: impl AsRef<[u8]>) -> Self {
        put_string(&mut self.0, text.as_ref());
        self
    }

    pub fn u32(mut self, value: u32) -> Self {
        put_u32(&mut self.0, value);
        self
    }

    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// USERAUTH_REQUEST for a key, up to the signature.
    pub fn publickey(user: &str, algorithm: &str, blob: &[u8], signed: bool) -> Self {
        let head = Self::new(msg::USERAUTH_REQUEST).text(user).text("ssh-connection").text("publickey");
        head.u8(u8::from(signed)).text(algorithm).text(blob)
    }

    /// A channel to a target, with the window and the packet of a real client.
    pub fn jump(channel: u32, host: impl AsRef<[u8]>, port: u32) -> Self {
        let open = Self::new(msg::CHANNEL_OPEN).text("direct-tcpip").u32(channel).u32(2 << 20).u32(32 * 1024);
        open.text(host).u32(port).text("127.0.0.1").u32(1)
    }
}

impl Client {
    /// From an address of its own, with the key exchange behind it.
    pub async fn connect(source: &str, to: SocketAddr) -> Result<Self, TransportError> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(format!("{source}:0").parse().unwrap())?;
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        let mut connection = Connection::new(Leg::client(Preferences::modern(), "SSH-2.0-OpenSSH_9.2p1")?, stream);
        within(connection.establish()).await?;
        let mut client = Self(connection);
        client.say(&Message::new(msg::SERVICE_REQUEST).text("ssh-userauth")).await?;
        assert_eq!(client.hear().await?.first(), Some(&msg::SERVICE_ACCEPT));
        Ok(client)
    }

    /// Proven to be this operator.
    pub async fn operator(source: &str, to: SocketAddr, name: &str, key: &PrivateKey) -> Result<Self, TransportError> {
        let mut client = Self::connect(source, to).await?;
        let request = client.signed(name, "ssh-ed25519", key);
        client.say(&request).await?;
        assert_eq!(client.hear().await?, [msg::USERAUTH_SUCCESS]);
        Ok(client)
    }

    /// A request with its signature over this connection's session id.
    pub fn signed(&self, name: &str, algorithm: &str, key: &PrivateKey) -> Message {
        self.signed_as(name, algorithm, &key.public_key().to_bytes().unwrap(), key)
    }

    /// The same for a certificate of the key, which names another algorithm.
    pub fn signed_as(&self, name: &str, algorithm: &str, blob: &[u8], key: &PrivateKey) -> Message {
        let request = Message::publickey(name, algorithm, blob, true);
        let session_id = self.0.leg.session_id().unwrap().clone();
        let data = Message(Vec::new()).text(&*session_id).raw(&request.0).0;
        let algorithm = ssh_broker::transport::SignatureAlgorithm::find(algorithm.trim_end_matches("-cert-v01@openssh.com")).unwrap();
        request.text(ssh_broker::transport::sign_with(key, algorithm, &data).unwrap())
    }

    pub async fn say(&mut self, message: &Message) -> Result<(), TransportError> {
        self.0.leg.send(&message.0)?;
        within(self.0.drain()).await
    }

    /// The next message of the layers above the transport.
    pub async fn hear(&mut self) -> Result<Vec<u8>, TransportError> {
        within(self.0.next()).await
    }

    /// Everything until the broker ends the connection.
    pub async fn until_ended(&mut self) -> (Vec<Vec<u8>>, TransportError) {
        let mut heard = Vec::new();
        loop {
            match self.hear().await {
                Ok(message) => heard.push(message),
                Err(error) => return (heard, error),
            }
        }
    }
}

/// What is not done in time is a hang, and a failure of the test.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("the broker neither answered nor closed")
}
