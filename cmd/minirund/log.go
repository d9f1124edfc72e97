package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// logger writes to the file given with --log, in the format of minirun's.
type logger struct{ file, format string }

func (l *logger) entry(level string, err error) {
	if l.file == "" {
		return
	}
	now := time.Now().Format(time.RFC3339)
	line := fmt.Sprintf("time=%q level=%s msg=%q\n", now, level, err.Error())
	if l.format == "json" {
		b, _ := json.Marshal(struct { // of strings: cannot fail
			Level string `json:"level"`
			Msg   string `json:"msg"`
			Time  string `json:"time"`
		}{level, oneLine(err), now}) // JSON leaves C1 as it is
		line = string(b) + "\n"
	}
	f, openErr := os.OpenFile(l.file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if openErr != nil {
		fmt.Fprintf(os.Stderr, "minirun: log file: %v\n", openErr)
		l.file = ""
		return
	}
	defer f.Close()
	_, _ = f.WriteString(line)
}
