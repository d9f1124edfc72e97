package container

import (
	"errors"
	"fmt"

	"github.com/minirun/minirun/internal/jsonread"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// profileReader reads a profile without reflection, which minirun would pay for
// at every start. Names match in any case, as in encoding/json.
type profileReader struct{ jsonread.Reader }

func (p *profileFile) decode(raw []byte) error {
	r := profileReader{jsonread.New(raw)}
	r.object("defaultAction,defaultErrnoRet,architectures,archMap,flags,listenerPath,listenerMetadata,syscalls", func(key string) {
		switch key {
		case "defaultAction":
			r.String((*string)(&p.DefaultAction))
		case "defaultErrnoRet":
			r.optional(&p.DefaultErrnoRet)
		case "architectures":
			p.Architectures = list[specs.Arch](&r)
		case "archMap":
			r.array(func() { p.ArchMap = append(p.ArchMap, r.archMap()) })
		case "flags":
			p.Flags = list[specs.LinuxSeccompFlag](&r)
		case "listenerPath":
			r.String(&p.ListenerPath)
		case "listenerMetadata":
			r.String(&p.ListenerMetadata)
		case "syscalls":
			r.array(func() { p.Syscalls = append(p.Syscalls, r.rule()) })
		}
	})
	if err := r.Err(); err != nil {
		return err
	}
	if r.Offset() < len(raw) {
		return errors.New("something follows the profile")
	}
	return nil
}

func (r *profileReader) archMap() (m archMap) {
	r.object("architecture,subArchitectures", func(key string) {
		switch key {
		case "architecture":
			r.String((*string)(&m.Architecture))
		case "subArchitectures":
			m.SubArchitectures = list[specs.Arch](r)
		}
	})
	return m
}

func (r *profileReader) rule() (p profileRule) {
	r.object("names,name,action,errnoRet,args,comment,includes,excludes", func(key string) {
		switch key {
		case "names":
			p.Names = list[string](r)
		case "name":
			r.String(&p.Name)
		case "action":
			r.String((*string)(&p.Action))
		case "errnoRet":
			r.optional(&p.ErrnoRet)
		case "args":
			r.array(func() { p.Args = append(p.Args, r.arg()) })
		case "comment":
			r.String(&p.Comment)
		case "includes":
			p.Includes = r.condition()
		case "excludes":
			p.Excludes = r.condition()
		}
	})
	return p
}

func (r *profileReader) arg() (a specs.LinuxSeccompArg) {
	r.object("index,value,valueTwo,op", func(key string) {
		switch key {
		case "index":
			r.Uint(&a.Index)
		case "value":
			r.Uint64(&a.Value)
		case "valueTwo":
			r.Uint64(&a.ValueTwo)
		case "op":
			r.String((*string)(&a.Op))
		}
	})
	return a
}

func (r *profileReader) condition() (c condition) {
	r.object("arches,caps,minKernel", func(key string) {
		switch key {
		case "arches":
			c.Arches = list[string](r)
		case "caps":
			c.Caps = list[string](r)
		case "minKernel":
			r.String(&c.MinKernel)
		}
	})
	return c
}

// object calls field for every member. names are those it knows, separated by
// commas; any other one is an error.
func (r *profileReader) object(names string, field func(key string)) {
	if r.Null() {
		return
	}
	at := r.Offset()
	for key, more := r.Object(); more; key, more = r.NextKey() {
		name := jsonread.Fold(key, names)
		if name == "" {
			r.Fail(at, fmt.Sprintf("unknown field %q", key))
			return
		}
		field(name)
		at = r.Offset()
	}
}

func (r *profileReader) array(elem func()) {
	if r.Null() {
		return
	}
	for more := r.Array(); more; more = r.NextElem() {
		elem()
	}
}

func (r *profileReader) optional(p **uint) {
	if r.Null() {
		return
	}
	*p = new(uint)
	r.Uint(*p)
}

// list reads an array of strings.
func list[T ~string](r *profileReader) (out []T) {
	r.array(func() {
		var s string
		r.String(&s)
		out = append(out, T(s))
	})
	return out
}
