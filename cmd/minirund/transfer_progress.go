package main

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/minirun/minirun/imagestore/registry"
	"github.com/urfave/cli/v2"
)

// transferProgress shows how far a pull or push is: one line that is rewritten on
// a terminal, a line now and then elsewhere, or JSON, one object a line, on
// standard output.
type transferProgress struct {
	mu    sync.Mutex
	verb  string
	name  string
	lines *progress // nil: silent
	json  *json.Encoder
	note  string
	p     registry.Progress
	start time.Time
	now   func() time.Time

	unpacked, unpack int64
	shown            time.Time
}

// event is a line of --progress json.
type event struct {
	Event     string `json:"event"` // "progress", "note", "done" or "error"
	Image     string `json:"image"`
	Blobs     int    `json:"blobs,omitempty"`
	BlobsDone int    `json:"blobsDone,omitempty"`
	Total     int64  `json:"total,omitempty"`
	Done      int64  `json:"done,omitempty"`
	Wire      int64  `json:"wire,omitempty"`
	Unpack    int64  `json:"unpack,omitempty"`   // bytes of blobs to be unpacked
	Unpacked  int64  `json:"unpacked,omitempty"` // of these, done
	Text      string `json:"text,omitempty"`
	ID        string `json:"id,omitempty"`
	Digest    string `json:"digest,omitempty"`
}

func newTransferProgress(c *cli.Context, u *ui, verb, name string) (*transferProgress, error) {
	t := &transferProgress{verb: verb, name: name, start: time.Now(), now: time.Now}
	form := c.String("progress")
	switch form {
	case "auto", "plain":
		t.lines = newProgress(u, c.Bool("quiet"))
		if form == "plain" && t.lines != nil {
			t.lines.terminal, t.lines.every = false, 10*time.Second
		}
	case "json":
		t.json = json.NewEncoder(u.out)
	case "none":
	default:
		return nil, &usageError{text: fmt.Sprintf("flag --progress: %q is none of auto, plain, json and none", form), command: commandName(c)}
	}
	return t, nil
}

// update is told by the transfer.
func (t *transferProgress) update(p registry.Progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p = p
	if p.Note != t.note {
		t.note = p.Note
		switch {
		case t.json != nil:
			_ = t.json.Encode(event{Event: "note", Image: t.name, Text: p.Note})
		case t.lines != nil:
			t.lines.clear()
			fmt.Fprintf(t.lines.u.err, "%s %s: %s\n", t.verb, t.name, printable(p.Note))
		}
	}
	t.show()
}

// unpacking is told by the unpacker.
func (t *transferProgress) unpacking(done, total int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unpacked, t.unpack = done, total
	if now := t.now(); now.Sub(t.shown) >= 100*time.Millisecond || done == total {
		t.shown = now
		t.show()
	}
}

func (t *transferProgress) show() {
	if t.json != nil {
		p := t.p
		_ = t.json.Encode(event{Event: "progress", Image: t.name, Blobs: p.Blobs, BlobsDone: p.BlobsDone, Total: p.Total, Done: p.Done, Wire: p.Wire, Unpack: t.unpack, Unpacked: t.unpacked})
		return
	}
	if t.lines != nil {
		t.lines.line(func() string { return t.text() })
	}
}

// text is the line for people: bytes, per cent, speed and time to go; and what is
// unpacked, with the time to go when only that is left.
func (t *transferProgress) text() string {
	p := t.p
	s := progressLine(t.verb+" "+t.name, p.Done, p.Total)
	elapsed := t.now().Sub(t.start)
	if p.Wire > 0 && elapsed >= time.Second && p.Done < p.Total {
		speed := float64(p.Wire) / elapsed.Seconds()
		s += fmt.Sprintf(", %s/s", bytesText(int64(speed))) + timeLeft(p.Total-p.Done, speed)
	}
	if t.unpacked > 0 {
		s += fmt.Sprintf("; unpacked %s, %d%%", bytesText(min(t.unpacked, t.unpack)), min(t.unpacked*100/max(t.unpack, 1), 100))
		if elapsed >= time.Second && p.Done >= p.Total && t.unpacked < t.unpack {
			s += timeLeft(t.unpack-t.unpacked, float64(t.unpacked)/elapsed.Seconds())
		}
	}
	return s
}

// timeLeft is empty when nobody would wait for it.
func timeLeft(n int64, speed float64) string {
	left := float64(n) / speed
	if left >= 1e6 {
		return ""
	}
	return ", " + (time.Duration(left) * time.Second).String() + " left"
}

func (t *transferProgress) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines.clear()
}

// failed ends a stream of JSON with what everybody else reads on standard error.
func (t *transferProgress) failed(err error) {
	t.clear()
	if t.json != nil {
		_ = t.json.Encode(event{Event: "error", Image: t.name, Text: oneLine(err)})
	}
}

// finish prints the result in the form that was asked for; text is for people.
func (t *transferProgress) finish(out io.Writer, quiet bool, id, digest, text string) {
	t.clear()
	switch {
	case t.json != nil:
		_ = t.json.Encode(event{Event: "done", Image: t.name, ID: id, Digest: digest, Text: text})
	case quiet:
		fmt.Fprintln(out, id)
	default:
		fmt.Fprintln(out, text)
	}
}
