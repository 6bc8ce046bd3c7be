//! The only place that knows all layers.
