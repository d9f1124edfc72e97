// Package archtest holds tests of the project as a whole: which package imports
// which, what the lean binary may link and what its start may cost, and that
// the documents say what the programs do. It has no code of its own.
//
// A failure here is answered in one of two ways: by changing the code, or by
// changing the table in the test together with docs/architecture.md.
package archtest
