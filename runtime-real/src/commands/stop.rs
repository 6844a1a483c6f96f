//! SIGINT and SIGTERM: the first ends a command in order, a second one at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    pub(crate) fn listen() -> std::io::Result<Stop> {
        Ok(Stop {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the first signal. From then on the next one ends the process.
    pub(crate) async fn wait(&mut self) {
        self.next().await;
        if let Ok(mut again) = Stop::listen() {
            tokio::spawn(async move {
                again.next().await;
                std::process::exit(1);
            });
        }
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
