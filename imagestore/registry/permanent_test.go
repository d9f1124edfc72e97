package registry

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

// Names that a name server does not know are not asked for again; what may be a moment's
// trouble is.
func TestPermanent(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{&net.DNSError{Name: "nosuch.example", IsNotFound: true}, true},
		{&net.DNSError{Name: "busy.example", IsTemporary: true}, false},
		{&net.DNSError{Name: "slow.example", IsTimeout: true}, false},
		{syscall.ENETUNREACH, false},
		{syscall.ECONNREFUSED, false},
		{&StatusError{Status: 404}, true},
		{&StatusError{Status: 503}, false},
		{errors.New("connection reset"), false},
	} {
		if got := permanent(&requestError{"manifest", "host.example", &net.OpError{Op: "dial", Err: tt.err}}); got != tt.want {
			t.Errorf("%v: %v", tt.err, got)
		}
	}
}
