use zeroize::Zeroizing;

/// Bytes that must not be seen: an instance's secret, an API key.
///
/// **Invariant**: no `Debug`, `Display`, `Serialize`, `Clone` or `PartialEq`; the memory is zeroized on drop. The only way to the bytes
/// is [`Secret::expose`], so a search for that word finds every use.
pub struct Secret(Zeroizing<Box<[u8]>>);

impl Secret {
    /// Takes the bytes over. The vector is copied into an allocation of its exact size and the original, spare capacity included, zeroized.
    pub fn new(bytes: Vec<u8>) -> Self {
        let bytes = Zeroizing::new(bytes);
        Self(Zeroizing::new(Box::from(bytes.as_slice())))
    }

    /// The bytes themselves, for the one place that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
