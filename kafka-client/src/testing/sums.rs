//! A recorder for the `metrics` crate that adds everything up.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use parking_lot::Mutex;

/// Sums of counters and counts of what histograms recorded, by name.
#[derive(Debug, Default, Clone)]
pub(crate) struct Sums(Arc<Mutex<BTreeMap<String, f64>>>);

#[derive(Debug)]
struct Sum(Sums, String);

impl Sum {
    fn change(&self, by: f64) {
        *self.0.0.lock().entry(self.1.clone()).or_default() += by;
    }
}

impl CounterFn for Sum {
    fn increment(&self, value: u64) {
        self.change(value as f64);
    }

    fn absolute(&self, _value: u64) {}
}

impl GaugeFn for Sum {
    fn increment(&self, value: f64) {
        self.change(value);
    }

    fn decrement(&self, value: f64) {
        self.change(-value);
    }

    fn set(&self, value: f64) {
        self.0.0.lock().insert(self.1.clone(), value);
    }
}

impl HistogramFn for Sum {
    fn record(&self, _value: f64) {
        self.change(1.0);
    }
}

impl Sums {
    fn sum(&self, key: &Key) -> Arc<Sum> {
        assert!(key.labels().any(|label| label.key() == "client_id"), "{key}");
        Arc::new(Sum(self.clone(), key.name().to_owned()))
    }

    pub(crate) fn get(&self, name: &str) -> f64 {
        self.0.lock().get(name).copied().unwrap_or_default()
    }
}

impl Recorder for Sums {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.sum(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.sum(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.sum(key))
    }
}
