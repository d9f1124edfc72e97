package doctor

// State is the outcome of a check.
type State string

// The states. Unknown is also what a probe says that lacks privileges.
const (
	OK      State = "ok"
	Missing State = "missing"
	Unknown State = "unknown"
)

// Check is one finding.
type Check struct {
	Name     string `json:"name"`
	State    State  `json:"state"`
	Required bool   `json:"required"` // no container runs without it
	Detail   string `json:"detail"`   // what was seen
	Lost     string `json:"lost"`     // what does not work without it; empty if State is OK
	Hint     string `json:"hint"`     // what would help; may be empty

	group string // heading in the text form
}

// add appends a check. What is lost is only said of what is not there.
func (h *host) add(group, name string, state State, required bool, detail, lost, hint string) {
	if state == OK {
		lost, hint = "", ""
	}
	h.checks = append(h.checks, Check{Name: name, State: state, Required: required, Detail: detail, Lost: lost, Hint: hint, group: group})
}

// failed: something without which no container runs is certainly not there.
func failed(checks []Check) bool {
	for _, c := range checks {
		if c.Required && c.State == Missing {
			return true
		}
	}
	return false
}
