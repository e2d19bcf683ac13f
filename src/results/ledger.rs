//! The rules of the windows of one task.
