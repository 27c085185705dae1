//! Faults that a test asks a node for: requests and answers that are late or lost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// What happens to a request instead of being served and answered at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It is served after that long.
    LateRequest(Duration),
    /// It is served at once, and answered after that long.
    LateAnswer(Duration),
    /// The connection is closed, and the request was not served.
    LostRequest,
    /// The connection is closed after the request was served: its effects stay.
    LostAnswer,
}

#[derive(Debug)]
struct Rule {
    api_key: i16,
    fault: Fault,
    left: usize,
}

/// The faults of one node, in the order in which they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// How many rules there are: what a request looks at when there are none.
    armed: AtomicUsize,
    rules: Mutex<Vec<Rule>>,
}

impl Faults {
    /// The next `times` requests of an API suffer it.
    pub(crate) fn add(&self, api_key: i16, fault: Fault, times: usize) {
        let mut rules = self.rules.lock();
        if times > 0 {
            rules.push(Rule { api_key, fault, left: times });
        }
        self.armed.store(rules.len(), Ordering::SeqCst);
    }

    pub(crate) fn clear(&self) {
        self.rules.lock().clear();
        self.armed.store(0, Ordering::SeqCst);
    }

    /// What is to happen to a request of that API.
    pub(crate) fn next(&self, api_key: i16) -> Option<Fault> {
        if self.armed.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut rules = self.rules.lock();
        let at = rules.iter().position(|rule| rule.api_key == api_key)?;
        let rule = rules.get_mut(at)?;
        rule.left -= 1;
        let fault = rule.fault;
        if rule.left == 0 {
            rules.remove(at);
        }
        self.armed.store(rules.len(), Ordering::SeqCst);
        Some(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_happens_as_often_as_asked_for_and_to_its_api_alone() {
        let faults = Faults::default();
        assert_eq!(faults.next(0), None);
        faults.add(0, Fault::LostAnswer, 2);
        faults.add(0, Fault::LostRequest, 1);
        assert_eq!(faults.next(1), None);
        let seen: Vec<_> = std::iter::from_fn(|| faults.next(0)).collect();
        assert_eq!(seen, [Fault::LostAnswer, Fault::LostAnswer, Fault::LostRequest]);
        faults.add(3, Fault::LostRequest, 9);
        faults.clear();
        assert_eq!(faults.next(3), None);
    }
}
