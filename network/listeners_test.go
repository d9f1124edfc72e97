package network

import (
	"fmt"
	"testing"
)

// Lines as the kernel of a little-endian machine writes them, like all that there are tests for.
func TestBound(t *testing.T) {
	const text = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 01004D0A:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   2: 01004D0A:0035 02004D0A:9999 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   3: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   4: 770000FD000000000000000001000000:0035 00000000000000000000000000000000:0000 0A 0 0 0 0
   5: XYZ:0035 00000000:0000 0A 00000000:00000000
`
	if got := fmt.Sprint(bound(text, 53, true)); got != "[127.0.0.1 10.77.0.1 fd00:77::1 invalid IP]" {
		t.Errorf("of TCP: %s", got)
	}
	if got := bound(text, 53, false); len(got) != 5 {
		t.Errorf("of UDP: %s", got)
	}
}
