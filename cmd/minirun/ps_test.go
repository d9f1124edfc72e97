package main

import "testing"

// A process chooses its name, and with it what stands before a column PID: it
// must not hide itself, pass for another, or have the whole table fail.
func TestFilterPS(t *testing.T) {
	for name, tt := range map[string]struct{ table, want string }{
		"plain":            {"    PID COMMAND\n      7 a b\n      8 c\n", "    PID COMMAND\n      7 a b\n"},
		"blanks":           {"COMMAND             PID\nmy process            7\nother               8\n", "COMMAND             PID\nmy process            7\n"},
		"pid of another":   {"COMMAND             PID\na 8 b                 7\n7 7 7                 8\n", "COMMAND             PID\na 8 b                 7\n"},
		"first is a pid":   {"COMMAND             PID\n8                     7\n7                     8\n", "COMMAND             PID\n8                     7\n"},
		"wide characters":  {"COMMAND             PID\n\u6f22 \u5b57               7\n\u6f22 \u5b57               8\n", "COMMAND             PID\n\u6f22 \u5b57               7\n"},
		"title in a title": {"PPID     PID\n   8       7\n   7       8\n", "PPID     PID\n   8       7\n"},
	} {
		got, err := filterPS(tt.table, []int{7})
		if err != nil || got != tt.want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, tt.want)
		}
	}
}
