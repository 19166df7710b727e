use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::drain::{Drain, Why};
use super::handover::{Invocation, Successor};
use super::metrics::Metrics;
use super::reload::{self, Refused, Requests};
use super::signals::{Order, Signals};
use super::sockets::Sockets;
use super::status::Status;
use super::watchdog::Watchdog;
use super::{Predecessor, Service, ServiceError, notify};
use crate::settings::Settings;

/// A new process that is not ready by then is not wanted.
const SUCCESSION: Duration = Duration::from_secs(30);
/// How often the service manager is told the counts, when they change.
const STATUS: Duration = Duration::from_secs(2);

/// The process around a broker: it obeys signals, and tells the service manager how it is.
pub(super) struct Daemon {
    pub(super) service: Arc<Service>,
    pub(super) settings: Settings,
    pub(super) file: PathBuf,
    pub(super) invocation: Invocation,
    pub(super) metrics: Arc<Metrics>,
    pub(super) status: Status,
    pub(super) signals: Signals,
    pub(super) requests: Requests,
}

impl Daemon {
    /// Serves until it is told to stop, or another process has taken over, and every session has ended.
    pub(super) async fn run(mut self, sockets: Sockets, predecessor: Option<Predecessor>) -> Result<(), ServiceError> {
        // Kept for a process that takes over; let go of with the decision to stop, or the kernel would go on taking connections.
        let spare = sockets.try_clone()?;
        let door: Vec<TcpListener> = sockets.door.into_iter().map(TcpListener::from_std).collect::<Result<_, _>>()?;
        if let Some(predecessor) = predecessor {
            predecessor.take_over().await?;
            tracing::info!("took over from the process before");
        }
        let serving = tokio::spawn({
            let service = self.service.clone();
            async move { service.door.run(door).await }
        });
        let watchdog = Watchdog::new(self.service.clone());
        let alive = watchdog.alive();
        let mut beside = JoinSet::new();
        beside.spawn(watchdog.run());
        if let Some(listener) = sockets.metrics {
            let listener = TcpListener::from_std(listener)?;
            beside.spawn(super::http::serve(listener, self.service.clone(), self.metrics.clone(), alive));
        }
        notify::ready(&self.status.line(&self.service));
        let why = self.obey(&spare).await;
        drop(spare);
        let process = self.settings.process;
        let drain = Drain {
            service: &self.service,
            signals: &mut self.signals,
            drain_timeout: process.drain_timeout,
            stop_timeout: process.stop_timeout,
        };
        drain.run(why, serving).await;
        beside.shutdown().await;
        Ok(())
    }

    async fn obey(&mut self, sockets: &Sockets) -> Why {
        let mut look = interval(STATUS);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = self.signals.next() => match order {
                    Order::Stop => return Why::Stop,
                    Order::Reload => drop(self.reload().await),
                    Order::Upgrade => {
                        if let Some(why) = self.upgrade(sockets).await {
                            return why;
                        }
                    }
                },
                Some(asked) = self.requests.recv() => {
                    // Who asked may have given up.
                    let _ = asked.send(self.reload().await);
                }
                _ = look.tick() => {
                    if let Some(line) = self.status.changed(&self.service) {
                        notify::status(&line);
                    }
                }
            }
        }
    }

    async fn reload(&mut self) -> reload::Told {
        notify::reloading();
        let reloaded = reload::reload(&self.service, &self.file, &self.settings).await;
        self.metrics.reloaded(reloaded.is_ok(), SystemTime::now());
        let told = match reloaded {
            Ok(settings) => {
                tracing::info!(file = %self.file.display(), "the configuration was reloaded");
                self.settings = settings;
                self.status.trouble = None;
                Ok(format!("{} is in force", self.file.display()))
            }
            Err(Refused(problems)) => {
                for problem in &problems {
                    tracing::error!("{problem}");
                }
                tracing::error!(file = %self.file.display(), "the configuration was not reloaded: what counted before still does");
                let first = problems.first().map(String::as_str).unwrap_or_default();
                self.status.trouble = Some(format!("the last reload was refused: {first}"));
                Err(format!("what counted before still does: {}", problems.join("; ")))
            }
        };
        notify::ready(&self.status.line(&self.service));
        told
    }

    /// Whether, and why, this process is to end now.
    async fn upgrade(&mut self, sockets: &Sockets) -> Option<Why> {
        let program = self.invocation.program.display().to_string();
        tracing::info!(program, "starting the process that is to take over");
        let outcome = match Successor::start(&self.invocation, sockets) {
            Ok(mut successor) => {
                let pid = successor.pid();
                tokio::select! {
                    biased;
                    ready = timeout(SUCCESSION, successor.ready()) => match ready {
                        Ok(Ok(())) => Ok((successor, pid)),
                        Ok(Err(error)) => Err(error.to_string()),
                        Err(_) => {
                            successor.give_up().await;
                            Err(format!("it was not ready within {} s", SUCCESSION.as_secs()))
                        }
                    },
                    () = self.signals.stop() => {
                        successor.give_up().await;
                        return Some(Why::Stop);
                    }
                }
            }
            Err(error) => Err(error.to_string()),
        };
        match outcome {
            Ok((successor, pid)) => {
                if let Some(pid) = pid {
                    notify::main_process(pid);
                }
                self.service.door.closing().stop_accepting();
                if let Err(error) = successor.put_in_charge().await {
                    tracing::warn!(%error, "the process that takes over could not be told so");
                }
                Some(Why::HandedOver)
            }
            Err(error) => {
                tracing::error!(program, error, "the upgrade failed: this process stays in charge");
                self.metrics.upgrade_failed();
                self.status.trouble = Some(format!("the last upgrade failed: {error}"));
                notify::status(&self.status.line(&self.service));
                None
            }
        }
    }
}
