//! Plans, workloads and faults.
