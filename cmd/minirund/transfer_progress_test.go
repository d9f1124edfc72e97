package main

import (
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/imagestore/registry"
	"golang.org/x/sys/unix"
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
		{"unpacking beside it", 4 * time.Second, registry.Progress{Done: 8e6, Wire: 8e6, Total: 128e6}, 1, 4, "pull x: 8.0 MB of 128.0 MB, 6%, 2.0 MB/s, 1m0s left; unpacked 1 B, 25%"},
		{"all is there", 4 * time.Second, registry.Progress{Done: 1000, Wire: 1000, Total: 1000}, 5, 4, "pull x: 1.0 kB of 1.0 kB, 100%; unpacked 4 B, 100%"},
		{"all is there but the unpacking", 4 * time.Second, registry.Progress{Done: 8e6, Wire: 8e6, Total: 8e6}, 4e6, 8e6, "pull x: 8.0 MB of 8.0 MB, 100%; unpacked 4.0 MB, 50%, 4s left"},
	} {
		p := transferProgress{verb: "pull", name: "x", start: start, now: func() time.Time { return start.Add(tt.after) }, p: tt.p, unpacked: tt.unpacked, unpack: tt.unpack}
		if got := p.text(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// A line on a terminal is never wider than that: it would be written again and again.
func TestFit(t *testing.T) {
	long := "pull registry.example/a/long/name@sha256:0123456789: 1.0 MB of 2.0 MB, 50%"
	for _, tt := range []struct {
		line    string
		columns int
		want    string
	}{
		{"short", 80, "short"},
		{"short", 0, "short"},
		{"12345", 6, "12345"},
		{"123456", 6, "23456"},
		{long, 40, "pull regi...6789: 1.0 MB of 2.0 MB, 50%"},
		{long, 1, ""},
		{"pull ÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄ: 50%", 20, "pull...ÄÄÄÄÄÄÄ: 50%"},
	} {
		got := fit(tt.line, tt.columns)
		if got != tt.want || tt.columns > 0 && len([]rune(got)) >= tt.columns {
			t.Errorf("%q on %d columns: %q, want %q", tt.line, tt.columns, got, tt.want)
		}
	}
}

// On a real terminal, whose width changes.
func TestProgress_Terminal(t *testing.T) {
	keyboard, tty := terminal(t)
	p := newProgress(&ui{err: tty}, false)
	if !p.terminal {
		t.Fatal("no terminal")
	}
	const text = "pull registry.example/a/long/name:tag: 1.0 MB of 2.0 MB, 50%"
	for _, width := range []uint16{80, 30} {
		if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: width}); err != nil {
			t.Fatal(err)
		}
		p.clear()
		p.last = time.Time{}
		p.line(func() string { return text })
		shown, buf := "", make([]byte, 1000)
		for !strings.HasSuffix(shown, "50%") {
			n, err := keyboard.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			shown += string(buf[:n])
		}
		lines := strings.Split(shown, "\r")
		if got := lines[len(lines)-1]; got != fit(text, int(width)) || len(got) >= int(width) {
			t.Errorf("on %d columns: %q", width, got)
		}
	}
}
