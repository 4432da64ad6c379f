//! What transports of both kinds offer, written once.

/// For a type with a field `shared`, whose state has `life`, `flow` and `reading`.
macro_rules! transport_methods {
    ($what:literal, $limits:literal) => {
        /// Whether it is closing or closed.
        pub fn is_closing(&self) -> bool {
            self.shared.lock().life.phase != Phase::Open
        }

        /// Waits until `connection_made` has been called.
        pub(super) async fn made(&self) -> io::Result<()> {
            let made = wait(&*self.shared, (), |waiter| {
                self.shared.poll_until(waiter, |state| state.life.made())
            });
            to_io(made.await)
        }

        /// Waits while the protocol is asked to pause writing. A task that need not wait, time and
        /// again, lets the others have a turn now and then.
        ///
        /// *asyncio equivalent*: `StreamWriter.drain`.
        ///
        /// # Errors
        /// - `NotConnected`: it is closing.
        ///
        /// # Cancel safety
        /// Nothing is lost.
        pub async fn drain(&self) -> io::Result<()> {
            crate::budget::turn().await;
            wait(&*self.shared, (), |waiter| {
                self.shared
                    .poll_until(waiter, |state| match state.life.phase {
                        Phase::Open if state.flow.is_paused() => None,
                        Phase::Open => Some(Ok(())),
                        _ => Some(Err(closed($what))),
                    })
            })
            .await
        }

        /// Sets the sizes of the queue above which the protocol is asked to pause writing, and
        /// down to which it is asked to resume: in bytes.
        ///
        /// Unless set: high 64 KiB, low 16 KiB. One alone implies the other: low is a quarter of
        /// high; none at all are those defaults. The limits are advice, nothing is refused because
        /// of them.
        ///
        #[doc = $limits]
        ///
        /// # Errors
        /// - `InvalidInput`: high is below low.
        pub fn set_write_buffer_limits(
            &self,
            high: Option<usize>,
            low: Option<usize>,
        ) -> io::Result<()> {
            let mut state = self.shared.lock();
            state.flow.set_limits(high, low)?;
            if state.flow.has_change() {
                state.call_driver();
            }
            Ok(())
        }

        /// The limits, (low, high).
        pub fn write_buffer_limits(&self) -> (usize, usize) {
            self.shared.lock().flow.limits()
        }

        /// The size of the queue, counted like the limits. What the system has taken is not
        /// counted.
        pub fn write_buffer_size(&self) -> usize {
            self.shared.lock().flow.size()
        }

        /// Goes on receiving.
        pub fn resume_reading(&self) {
            self.set_reading(true);
        }

        fn set_reading(&self, reading: bool) {
            let mut state = self.shared.lock();
            if state.reading != reading {
                state.reading = reading;
                state.call_driver();
            }
        }

        /// Whether anything is being received: neither paused nor closing.
        pub fn is_reading(&self) -> bool {
            let state = self.shared.lock();
            state.reading && state.life.phase == Phase::Open
        }
    };
}

pub(super) use transport_methods;
