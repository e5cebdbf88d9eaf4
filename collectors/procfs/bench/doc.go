// Package bench measures the collector procfs beside node_exporter's own collectors, on the same files, and beside the
// library that those read them with. It is a module of its own, so that IAPI does not depend on node_exporter.
package bench
