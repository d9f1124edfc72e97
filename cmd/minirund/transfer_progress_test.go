package main

import (
	"testing"
	"time"

	"github.com/minirun/minirun/imagestore/registry"
)

// The line of a transfer, at times that the test decides.
func TestTransferProgress_Text(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, tt := range []struct {
		name             string
		after            time.Duration
		p                registry.Progress
		unpacked, unpack int64
		want             string
	}{
		{"before the sizes are known", 0, registry.Progress{}, 0, 0, "pull x: 0 B"},
		{"too early to tell a speed", 900 * time.Millisecond, registry.Progress{Done: 500, Wire: 500, Total: 1000}, 0, 0, "pull x: 500 B of 1.0 kB, 50%"},
		{"speed and time to go", 4 * time.Second, registry.Progress{Done: 8e6, Wire: 8e6, Total: 128e6}, 0, 0, "pull x: 8.0 MB of 128.0 MB, 6%, 2.0 MB/s, 1m0s left"},
		{"what was there does not make it fast", 4 * time.Second, registry.Progress{Done: 88e6, Wire: 8e6, Total: 128e6}, 0, 0, "pull x: 88.0 MB of 128.0 MB, 68%, 2.0 MB/s, 20s left"},
		{"nothing has come", time.Minute, registry.Progress{Total: 1000}, 0, 0, "pull x: 0 B of 1.0 kB, 0%"},
		{"hardly anything has come", 100 * time.Second, registry.Progress{Done: 100, Wire: 100, Total: 1 << 40}, 0, 0, "pull x: 100 B of 1.1 TB, 0%, 1 B/s"},
		{"unpacking beside it", 4 * time.Second, registry.Progress{Done: 8e6, Wire: 8e6, Total: 128e6}, 1, 4, "pull x: 8.0 MB of 128.0 MB, 6%, 2.0 MB/s, 1m0s left; unpacked 25%"},
		{"all is there", 4 * time.Second, registry.Progress{Done: 1000, Wire: 1000, Total: 1000}, 5, 4, "pull x: 1.0 kB of 1.0 kB, 100%; unpacked 100%"},
	} {
		p := transferProgress{verb: "pull", name: "x", start: start, now: func() time.Time { return start.Add(tt.after) }, p: tt.p, unpacked: tt.unpacked, unpack: tt.unpack}
		if got := p.text(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
