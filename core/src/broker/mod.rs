//! The broker: typed operations over tables and store; remoting is one way among others to call them.
