package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
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
	line = fit(line, columns(p.u.err))
	fmt.Fprintf(p.u.err, "\r%-*s", p.width, line)
	p.width = len([]rune(line))
}

// columns is the width of the terminal, which may change at any time; 0: not known.
func columns(f any) int {
	file, ok := f.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

// fit takes from the first half of a line, where the name is, what makes it wider
// than the terminal. A line that wraps would not be rewritten but written again.
func fit(line string, columns int) string {
	r := []rune(line)
	room := columns - 1 // a full last column wraps on some terminals
	if columns <= 0 || len(r) <= room {
		return line
	}
	const gap = "..."
	if room <= 4*len(gap) {
		return string(r[len(r)-max(room, 0):])
	}
	head := (room - len(gap)) / 4
	return string(r[:head]) + gap + string(r[len(r)-(room-len(gap)-head):])
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
