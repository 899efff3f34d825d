// Package query finds records in the sealed logs of a store.
//
// It promises that what matches is found, in the order in which it was sealed,
// with memory that does not grow with the logs: it holds one commit group of
// each log at a time. It proves nothing: it skips batches by their header and
// filter, and only `meshaudit verify` checks that these tell the truth.
//
// A log that is damaged is read up to the damage; the others are read to their
// end all the same.
package query
