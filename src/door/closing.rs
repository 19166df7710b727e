use tokio_util::sync::CancellationToken;

/// What an operator reads who comes too late.
pub(super) const DRAINING: &str = "the broker is about to stop; connect again in a moment";

/// How far the door is closed. Each step is for ever.
#[derive(Debug, Clone, Default)]
pub struct Closing {
    /// No more connections are taken; what is open goes on as before.
    accepting: CancellationToken,
    /// Open connections get no more targets (`broker-draining`), and end when they carry none.
    opening: CancellationToken,
    /// Whatever is still open ends.
    serving: CancellationToken,
}

impl Closing {
    pub fn stop_accepting(&self) {
        self.accepting.cancel();
    }

    pub fn stop_opening(&self) {
        self.stop_accepting();
        self.opening.cancel();
    }

    pub fn stop_serving(&self) {
        self.stop_opening();
        self.serving.cancel();
    }

    pub fn is_accepting(&self) -> bool {
        !self.accepting.is_cancelled()
    }

    pub(super) fn accepting(&self) -> &CancellationToken {
        &self.accepting
    }

    pub(super) fn serving(&self) -> &CancellationToken {
        &self.serving
    }

    pub(super) fn is_opening(&self) -> bool {
        !self.opening.is_cancelled()
    }
}
