package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestFlags(t *testing.T) {
	type result struct {
		name   string
		list   []string
		on     bool
		number int
		rest   []string
	}
	for _, tt := range []struct {
		args string // separated by |
		want result
		err  string
	}{
		{"", result{}, ""},
		{"--name|x|ID", result{name: "x", rest: []string{"ID"}}, ""},
		{"--name=x|ID", result{name: "x", rest: []string{"ID"}}, ""},
		{"-name|x", result{name: "x"}, ""},
		{"-name=x", result{name: "x"}, ""},
		{"-n|x", result{name: "x"}, ""},
		{"-n=x", result{name: "x"}, ""},
		{"-nx", result{name: "x"}, ""},
		{"--name=", result{}, ""},
		{"--name=a=b", result{name: "a=b"}, ""},
		{"--name|--on", result{name: "--on"}, ""},
		{"--name|a|--name|b", result{name: "b"}, ""},
		{"--list|a|--list=b|-l|c", result{list: []string{"a", "b", "c"}}, ""},
		{"--on", result{on: true}, ""},
		{"-o", result{on: true}, ""},
		{"--on=true", result{on: true}, ""},
		{"--on=false", result{}, ""},
		{"--on|false", result{on: true, rest: []string{"false"}}, ""},
		{"-on", result{on: true}, ""},
		{"-onx", result{on: true, name: "x"}, ""},
		{"-on|x", result{on: true, rest: []string{"x"}}, ""},
		{"--number|-5", result{number: -5}, ""},
		{"ID|--on", result{rest: []string{"ID", "--on"}}, ""},
		{"--on|--|--name|x", result{on: true, rest: []string{"--name", "x"}}, ""},
		{"-", result{rest: []string{"-"}}, ""},
		{"--on|-|x", result{on: true, rest: []string{"-", "x"}}, ""},
		{"--nope", result{}, "unknown flag --nope"},
		{"--o", result{}, "unknown flag --o"},
		{"-x", result{}, "unknown flag -x"},
		{"-ox", result{}, "unknown flag -ox"},
		{"--name", result{}, "flag --name needs a value: NAME"},
		{"-n", result{}, "flag -n needs a value: NAME"},
		{"--number|x", result{}, `flag --number: invalid value "x": want a number`},
		{"--on=x", result{}, `flag --on: invalid value "x": want true or false`},
		{"--help", result{}, errHelp.Error()},
		{"-h", result{}, errHelp.Error()},
		{"--on|--help|--nope", result{}, errHelp.Error()},
	} {
		var got result
		f := newFlags("test")
		f.String(&got.name, "name", 'n', "NAME", "a name")
		f.Strings(&got.list, "list", 'l', "ITEM", "a list")
		f.Bool(&got.on, "on", 'o', "a switch")
		f.Int(&got.number, "number", 0, "N", "a number")
		var args []string
		if tt.args != "" {
			args = strings.Split(tt.args, "|")
		}
		rest, err := f.parse(args)
		got.rest = rest
		if tt.err != "" {
			if err == nil || err.Error() != tt.err {
				t.Errorf("%q: error %v, want %q", tt.args, err, tt.err)
			}
			var usage *usageError
			if err != errHelp && !errors.As(err, &usage) {
				t.Errorf("%q: %T is no mistake in the command line", tt.args, err)
			}
			continue
		}
		if err != nil || got.name != tt.want.name || got.on != tt.want.on || got.number != tt.want.number || !slices.Equal(got.list, tt.want.list) || !slices.Equal(got.rest, tt.want.rest) {
			t.Errorf("%q: %+v, %v, want %+v", tt.args, got, err, tt.want)
		}
	}
}

// Two flags of one command must not share a name or a letter, and each says
// what it is for.
func TestCommandFlags(t *testing.T) {
	a := &app{}
	sets := []*flagSet{a.globalFlags()}
	for i := range commands {
		if c := &commands[i]; c.flags != nil {
			sets = append(sets, c.flags(a))
		}
		if c := &commands[i]; c.summary == "" || c.run == nil || forSibling(c.name) {
			t.Errorf("command %q: no summary, nothing to run, or another program's", c.name)
		}
	}
	for _, f := range sets {
		seen := map[string]bool{}
		for _, fl := range f.flags {
			if seen[fl.name] || fl.letter != 0 && seen[string(fl.letter)] || fl.help == "" || fl.name == "help" || fl.letter == 'h' {
				t.Errorf("%s: flag %q %c is there twice, says nothing, or is the help's", f.command, fl.name, fl.letter)
			}
			seen[fl.name] = true
			if fl.letter != 0 {
				seen[string(fl.letter)] = true
			}
		}
		text := f.usage()
		for _, fl := range f.flags {
			if strings.Contains(text, "--"+fl.name+" ") == fl.hidden {
				t.Errorf("%s: flag %q hidden %v, help:\n%s", f.command, fl.name, fl.hidden, text)
			}
		}
	}
}

func FuzzFlags(f *testing.F) {
	f.Add("--name\x00x\x00-on\x00--")
	f.Fuzz(func(t *testing.T, line string) {
		var o launchOptions
		set := newFlags("create")
		o.add(set)
		args := strings.Split(line, "\x00")
		rest, err := set.parse(args)
		if err == nil && len(rest) > len(args) {
			t.Errorf("%q leaves %q", args, rest)
		}
	})
}
