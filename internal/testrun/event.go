package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
)

// event is one line of `go test -json` (go doc test2json).
type event struct {
	Action     string
	Package    string
	Test       string
	Elapsed    float64 // seconds
	Output     string
	ImportPath string // of build-output and build-fail

	FailedBuild string // the import path whose build failed, of fail
}

// readEvents calls f for each event of r and other for each line that is none.
func readEvents(r io.Reader, f func(event), other func(string)) error {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadBytes('\n') // a line has no size limit: tests print what they like
		if len(line) > 0 {
			var e event
			if bytes.HasPrefix(line, []byte("{")) && json.Unmarshal(line, &e) == nil && e.Action != "" {
				f(e)
			} else {
				other(string(line))
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
