package names

import (
	"errors"

	"golang.org/x/sys/unix"
)

// listenError has advice.
type listenError struct {
	err  error
	hint string
}

func (e *listenError) Error() string { return e.err.Error() }
func (e *listenError) Unwrap() error { return e.err }

// Hint says what to do.
func (e *listenError) Hint() string { return e.hint }

func explain(err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return &listenError{err, "another name server of this host listens at all addresses: ss -lnptu 'sport = 53' shows it; have it listen at its own ones alone (dnsmasq: bind-interfaces; named: listen-on)"}
	case errors.Is(err, unix.EACCES):
		return &listenError{err, "port 53 takes root or CAP_NET_BIND_SERVICE"}
	}
	return err
}
