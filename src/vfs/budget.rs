//! The one memory budget: 64 KiB blocks, who yields, who may always grow.
