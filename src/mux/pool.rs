//! Buffers that pass from one connection to the next.

use crate::buffer::{Input, Output};
use crate::config::{Limits, LongLine};

/// Buffers that no connection needs just now.
#[derive(Debug)]
#[allow(
    clippy::vec_box,
    reason = "the boxes move to the connections and back; a connection without one has a pointer"
)]
pub(super) struct Pool {
    outputs: Vec<Box<Output>>,
    inputs: Vec<Box<Input>>,
    line_max: usize,
    long_line: LongLine,
}

impl Pool {
    pub(super) fn new(limits: &Limits) -> Self {
        let (line_max, long_line) = (limits.line_max_bytes, limits.long_line);
        Self { outputs: Vec::new(), inputs: Vec::new(), line_max, long_line }
    }

    #[inline]
    pub(super) fn take(&mut self) -> Box<Output> {
        match self.outputs.pop() {
            Some(output) => output,
            None => Self::new_output(),
        }
    }

    #[cold]
    fn new_output() -> Box<Output> {
        Box::default()
    }

    /// `output` must be empty.
    #[inline]
    pub(super) fn give_back(&mut self, output: Option<Box<Output>>) {
        let Some(output) = output else { return };
        debug_assert!(output.is_empty());
        // One big answer leaves no trace.
        if self.outputs.len() < POOL_MAX && output.capacity() <= POOLED_MAX_BYTES {
            self.outputs.push(output);
        }
    }

    pub(super) fn take_input(&mut self) -> Box<Input> {
        self.inputs.pop().unwrap_or_else(|| Box::new(Input::new(self.line_max, self.long_line)))
    }

    pub(super) fn give_back_input(&mut self, mut input: Box<Input>) {
        if self.inputs.len() < POOL_MAX && input.capacity() <= POOLED_MAX_BYTES {
            input.reset();
            self.inputs.push(input);
        }
    }
}

/// Buffers of each kind that wait for the next connection that needs one; at most 4 KiB each. All connections share them:
/// with ten thousand idle ones they are 3 bytes for each after a short line, never more than 105.
const POOL_MAX: usize = 128;
const POOLED_MAX_BYTES: usize = 4 * 1024;
