package main

import (
	"fmt"
	"time"
)

// progress shows how far long work is. On a terminal one line is rewritten ten
// times a second; elsewhere a line appears every ten seconds, so that a log
// shows that something happens and a short command prints nothing.
type progress struct {
	u        *ui
	terminal bool
	every    time.Duration
	started  time.Time
	last     time.Time
	width    int // of the line that is on the terminal
}

func newProgress(u *ui, quiet bool) *progress {
	if quiet {
		return nil
	}
	p := &progress{u: u, terminal: isTerminal(u.err), every: 10 * time.Second}
	if p.terminal {
		p.every = 100 * time.Millisecond
	}
	p.started = time.Now()
	p.last = p.started
	return p
}

// update shows "what: done of total". total 0 is not known. A nil progress is silent.
func (p *progress) update(what string, done, total int64) {
	p.line(func() string { return progressLine(what, done, total) })
}

// line shows what text returns, which is only asked when it is time.
func (p *progress) line(text func() string) {
	if p == nil {
		return
	}
	now := time.Now()
	if now.Sub(p.last) < p.every {
		return
	}
	p.last = now
	line := text()
	if !p.terminal {
		fmt.Fprintln(p.u.err, line)
		return
	}
	fmt.Fprintf(p.u.err, "\r%-*s", p.width, line)
	p.width = len(line)
}

func progressLine(what string, done, total int64) string {
	if total <= 0 {
		return what + ": " + bytesText(done)
	}
	return fmt.Sprintf("%s: %s of %s, %d%%", what, bytesText(done), bytesText(total), min(done*100/total, 100))
}

// clear takes the line from the terminal.
func (p *progress) clear() {
	if p != nil && p.terminal && p.width > 0 {
		fmt.Fprintf(p.u.err, "\r%*s\r", p.width, "")
		p.width = 0
	}
}
