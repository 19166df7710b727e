//! Where the API key comes from: files named in the configuration, the environment, an INI file, or the CVM's role. The first place that
//! is configured wins; a place that is configured but broken is an error, never a reason to go on to the next.

mod key;
mod metadata;
mod places;

#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

pub(super) use key::ApiKey;
pub use key::KeyError;
pub(super) use metadata::Metadata;
pub(super) use places::Places;

/// A role's key is fetched anew this long before it expires.
const REFRESH_BEFORE: Duration = Duration::from_secs(300);
/// The key is not read again sooner than this after the last attempt, whatever the API says of it.
const REREAD_PAUSE: Duration = Duration::from_secs(1);

/// The API key in use, with the way to a newer one.
pub(super) struct Credentials {
    places: Arc<Places>,
    metadata: Metadata,
    current: RwLock<Arc<ApiKey>>,
    /// When the key was last asked for. Held while it is: one reading at a time.
    reading: tokio::sync::Mutex<Instant>,
}

impl Credentials {
    pub(super) async fn load(places: Places, metadata: Metadata) -> Result<Self, KeyError> {
        let places = Arc::new(places);
        let current = RwLock::new(Arc::new(read(&places, &metadata).await?));
        Ok(Self { places, metadata, current, reading: tokio::sync::Mutex::new(Instant::now()) })
    }

    fn current(&self) -> Arc<ApiKey> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The key to sign with at `now` (unix seconds, by the endpoint's clock). One that is about to expire is refreshed, by one asker; the
    /// others, and everybody when that fails, go on with the old one as long as it is valid.
    pub(super) async fn key(&self, now: i64) -> Result<Arc<ApiKey>, KeyError> {
        let key = self.current();
        if !key.expires_within(now, REFRESH_BEFORE) {
            return Ok(key);
        }
        let valid = !key.expires_within(now, Duration::ZERO);
        let mut read_at = match self.reading.try_lock() {
            Ok(read_at) => read_at,
            Err(_) if valid => return Ok(key),
            Err(_) => self.reading.lock().await,
        };
        let newer = self.current();
        if !newer.expires_within(now, REFRESH_BEFORE) || (valid && read_at.elapsed() < REREAD_PAUSE) {
            return Ok(newer);
        }
        match self.read(&mut read_at).await {
            Err(error) if valid => {
                tracing::warn!(%error, "the API key that is about to expire could not be refreshed");
                Ok(key)
            }
            result => result,
        }
    }

    /// Reads the key again because the API did not take `used`, unless somebody already has.
    pub(super) async fn refresh(&self, used: &Arc<ApiKey>) -> Result<Arc<ApiKey>, KeyError> {
        let mut read_at = self.reading.lock().await;
        let newer = self.current();
        if !Arc::ptr_eq(&newer, used) || read_at.elapsed() < REREAD_PAUSE {
            return Ok(newer);
        }
        self.read(&mut read_at).await
    }

    async fn read(&self, read_at: &mut Instant) -> Result<Arc<ApiKey>, KeyError> {
        *read_at = Instant::now();
        let key = Arc::new(read(&self.places, &self.metadata).await?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = key.clone();
        Ok(key)
    }
}

async fn read(places: &Arc<Places>, metadata: &Metadata) -> Result<ApiKey, KeyError> {
    let local = tokio::task::spawn_blocking({
        let places = places.clone();
        move || places.read()
    });
    match local.await.map_err(|_| KeyError::Stopped)?? {
        Some(key) => Ok(key),
        None => metadata.fetch().await.map_err(|error| match error {
            KeyError::Metadata { what, .. } => KeyError::Nowhere { tried: places.describe(), metadata: what },
            other => other,
        }),
    }
}
