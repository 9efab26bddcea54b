package mapping

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr" // expressions: checked with positions when compiled, no loops, no I/O; MIT, in Go alone, without dependencies
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	exprtypes "github.com/expr-lang/expr/types"
	"github.com/expr-lang/expr/vm"

	"edgegateway/devices"
)

// Computed points are expressions over other points of the same device. They
// are compiled when the configuration is checked. What cannot end soon, or can
// grow without bound, is no part of their language: there are no loops, no
// functions over lists, no ranges and no names for parts, and an expression has
// at most maxNodes parts.
//
// They compute in floats of 64 bits, and round to the 15 digits that these
// hold for sure, so that 0.1 + 0.2 is 0.3. An input without a value makes a
// result without one, and its cause names the input.

const (
	maxExpression = 4000 // bytes
	maxNodes      = 500
	maxResult     = 1024 // bytes of a text
)

// A Program is a compiled expression. It is immutable; evaluators run it.
type Program struct {
	text    string
	code    *vm.Program
	inputs  []string // points that it reads, by name
	history []HistoryKey
	sites   int  // calls of hysteresis
	result  Type // F64, Bool or Text
}

// String is the expression as it was written.
func (p *Program) String() string { return p.text }

// Inputs returns the names of the points that p reads.
func (p *Program) Inputs() []string { return p.inputs }

// Result returns the type of a point that holds p's results.
func (p *Program) Result() Type { return p.result }

// Calls reports whether p calls one of these functions of a point's past.
func (p *Program) Calls(functions ...string) bool {
	return slices.ContainsFunc(p.history, func(k HistoryKey) bool { return slices.Contains(functions, k.Function) })
}

// An ExpressionError says what is wrong with an expression, and where.
type ExpressionError struct {
	At, End int // bytes of the expression
	Message string
	Unknown string // the name that is not known, "" if it is something else
}

func (e *ExpressionError) Error() string { return e.Message }

// Compile reads an expression over points. Its error is an *ExpressionError.
func Compile(text string, points []*Point) (*Program, error) {
	if len(text) > maxExpression {
		return nil, &ExpressionError{Message: fmt.Sprintf("longer than %d bytes", maxExpression)}
	}
	p := &Program{text: text}
	c := &reader{program: p, points: make(map[string]*Point)}
	names := exprtypes.Map{"hysteresis": exprtypes.TypeOf(hysteresisType)}
	for _, point := range points {
		c.points[point.Name] = point
		names[point.Name] = point.expressionType()
		for _, f := range historyFunctions {
			names[HistoryKey{f, point.Name}.String()] = exprtypes.Float64
		}
	}
	code, err := expr.Compile(text, append(mathFunctions(), expr.Env(names), expr.Patch(c), expr.MaxNodes(maxNodes))...)
	switch {
	case c.err != nil:
		return nil, c.err
	case err != nil:
		return nil, explain(text, err)
	}
	p.code = code
	if p.result = resultType(code); p.result == 0 {
		return nil, &ExpressionError{End: len(text), Message: "this gives neither a number nor a truth nor a text"}
	}
	if len(p.inputs) == 0 {
		return nil, &ExpressionError{End: len(text), Message: "this names no point of the device, so that it never changes"}
	}
	return p, nil
}

func resultType(code *vm.Program) Type {
	switch code.Node().Type().Kind().String() {
	case "bool":
		return Bool
	case "string":
		return Text
	case "float64", "int", "interface":
		return F64
	}
	return 0
}

// expressionType is what a point's values are in an expression.
func (p *Point) expressionType() exprtypes.Type {
	switch {
	case p.Program != nil && p.Program.result == Bool, p.Type == Bool && len(p.Enum) == 0:
		return exprtypes.Bool
	case len(p.Bits) > 0:
		bits := exprtypes.Map{}
		for _, name := range p.Bits {
			bits[name] = exprtypes.Bool
		}
		return bits
	case len(p.Enum) > 0:
		return exprtypes.Any // a name, or a number that has none
	case p.Type.Integer() || p.Type.Float():
		return exprtypes.Float64
	}
	return exprtypes.String
}

// mathFunctions are all functions but those with a memory.
func mathFunctions() []expr.Option {
	one := func(name string, f func(float64) float64) expr.Option {
		return expr.Function(name, func(x ...any) (any, error) { return f(number64(x[0])), nil }, new(func(float64) float64))
	}
	many := func(name string, f func(a, b float64) float64) expr.Option {
		return expr.Function(name, func(x ...any) (any, error) {
			y := number64(x[0])
			for _, z := range x[1:] {
				y = f(y, number64(z))
			}
			return y, nil
		}, new(func(float64, ...float64) float64))
	}
	round := expr.Function("round", func(x ...any) (any, error) {
		if len(x) == 1 {
			return math.Round(number64(x[0])), nil
		}
		return roundTo(number64(x[0]), number64(x[1])), nil
	}, new(func(float64) float64), new(func(float64, float64) float64))
	return []expr.Option{
		expr.DisableAllBuiltins(), round,
		one("abs", math.Abs), one("floor", math.Floor), one("ceil", math.Ceil), one("sqrt", math.Sqrt),
		many("min", func(a, b float64) float64 { return min(a, b) }), many("max", func(a, b float64) float64 { return max(a, b) }),
	}
}

func roundTo(x, places float64) float64 {
	f, err := strconv.ParseFloat(strconv.FormatFloat(x, 'f', int(max(0, min(places, 15))), 64), 64)
	if err != nil {
		return x
	}
	return f
}

func number64(x any) float64 {
	switch n := x.(type) {
	case float64:
		return n
	case int:
		return float64(n)
	}
	return math.NaN()
}

// A reader visits the parts of an expression before they are checked: it notes
// which points are read, gives calls of functions with a memory their place,
// and refuses what could take long.
type reader struct {
	program *Program
	points  map[string]*Point
	err     *ExpressionError
}

var _ ast.Visitor = (*reader)(nil)

// Visit is called for each node, after it was called for those below.
func (r *reader) Visit(n *ast.Node) {
	switch node := (*n).(type) {
	case *ast.MemberNode:
		if env, ok := node.Node.(*ast.IdentifierNode); ok && env.Value == "$env" {
			r.quoted(n, node)
		}
	case *ast.IdentifierNode:
		r.read(node.Value)
	case *ast.BinaryNode:
		if node.Operator == ".." {
			r.refuse(*n, "ranges are no part of this language")
		}
	case *ast.CallNode:
		if f, ok := node.Callee.(*ast.IdentifierNode); ok {
			r.call(n, node, f.Value)
		}
	case *ast.MapNode:
		r.refuse(*n, "objects are no part of this language")
	case *ast.VariableDeclaratorNode: // with which a text could be doubled again and again
		r.refuse(*n, "let is no part of this language: give what it names a point of its own")
	}
}

// quoted makes $env["Flow temp"] the name of a point.
func (r *reader) quoted(n *ast.Node, node *ast.MemberNode) {
	name, ok := node.Property.(*ast.StringNode)
	switch {
	case !ok:
		r.refuse(*n, `$env takes a name in quotes: $env["Flow temp"]`)
	case r.points[name.Value] == nil:
		r.refuse(*n, fmt.Sprintf("there is no point %q", name.Value))
	default:
		ast.Patch(n, &ast.IdentifierNode{Value: name.Value})
		r.read(name.Value)
	}
}

func (r *reader) read(name string) {
	if r.points[name] != nil && !slices.Contains(r.program.inputs, name) {
		r.program.inputs = append(r.program.inputs, name)
	}
}

func (r *reader) call(n *ast.Node, node *ast.CallNode, function string) {
	switch {
	case function == "hysteresis":
		if len(node.Arguments) != 3 {
			r.refuse(*n, "hysteresis takes a number and where it falls and rises: hysteresis(temperature, 60, 65)")
			return
		}
		node.Arguments = append(node.Arguments, &ast.IntegerNode{Value: r.program.sites})
		r.program.sites++
	case slices.Contains(historyFunctions, function):
		r.historyCall(n, node, function)
	}
}

func (r *reader) historyCall(n *ast.Node, node *ast.CallNode, function string) {
	if len(node.Arguments) != 1 {
		r.refuse(*n, function+" takes the name of one point")
		return
	}
	id, ok := node.Arguments[0].(*ast.IdentifierNode)
	if !ok || r.points[id.Value] == nil {
		r.refuse(node.Arguments[0], function+" takes the name of a point of this device, and no expression: give that a point of its own")
		return
	}
	p := r.points[id.Value]
	switch {
	case function != rateFunction && p.Kind != Counter:
		r.refuse(node.Arguments[0], fmt.Sprintf(`%s is of counters: add kind = "counter" to point %q`, function, p.Name))
		return
	case p.expressionType() != exprtypes.Float64:
		r.refuse(node.Arguments[0], fmt.Sprintf("point %q is no number", p.Name))
		return
	}
	key := HistoryKey{function, id.Value}
	if !slices.Contains(r.program.history, key) {
		r.program.history = append(r.program.history, key)
	}
	ast.Patch(n, &ast.IdentifierNode{Value: key.String()})
}

func (r *reader) refuse(n ast.Node, message string) {
	if r.err == nil {
		at := n.Location()
		r.err = expressionError(r.program.text, at, message)
	}
}

// expressionError places an error, whose location counts characters.
func expressionError(text string, at file.Location, message string) *ExpressionError {
	e := &ExpressionError{At: byteOf(text, at.From), End: byteOf(text, at.To), Message: message}
	if e.End <= e.At {
		_, size := utf8.DecodeRuneInString(text[e.At:])
		e.End = e.At + size
	}
	return e
}

// byteOf returns where the n-th character of text begins.
func byteOf(text string, n int) int {
	for i := range text {
		if n <= 0 {
			return i
		}
		n--
	}
	return len(text)
}

// explain puts an error of the library into our words.
func explain(text string, err error) *ExpressionError {
	e, ok := errors.AsType[*file.Error](err)
	if !ok {
		return &ExpressionError{End: len(text), Message: err.Error()}
	}
	message := e.Message
	unknown, _ := strings.CutPrefix(message, "unknown name ")
	if unknown != message {
		message = fmt.Sprintf("there is no point %q on this device, and no function", unknown)
	} else {
		unknown = ""
	}
	message = strings.NewReplacer("unexpected token EOF", "it ends too early", "float64", "number").Replace(message)
	located := expressionError(text, e.Location, message)
	located.Unknown = unknown
	return located
}

// An evaluator runs a Program again and again. One goroutine owns it.
type evaluator struct {
	*Program
	vm     vm.VM
	names  map[string]any
	on     []bool // what each call of hysteresis gave last
	failed error  // of a function
}

// hysteresisType is what evaluators put under that name.
var hysteresisType func(...any) any

func newEvaluator(p *Program) *evaluator {
	e := &evaluator{Program: p, names: make(map[string]any), on: make([]bool, p.sites)}
	e.names["hysteresis"] = e.hysteresis
	return e
}

var errLong = &Invalid{Reason: "longer than 1024 bytes"}

var errHysteresis = &Invalid{Reason: "hysteresis: it falls above where it rises"}

// hysteresis is true from where x reaches high until it falls to low.
func (e *evaluator) hysteresis(args ...any) any {
	x, low, high := number64(args[0]), number64(args[1]), number64(args[2])
	on := &e.on[args[3].(int)]
	switch {
	case !(low <= high):
		e.failed = errHysteresis
	case x >= high:
		*on = true
	case x <= low:
		*on = false
	}
	return *on
}

// set gives an input its value.
func (e *evaluator) set(p *Point, v Value) {
	switch v.kind {
	case KindNumber, KindFloat32, KindFloat64:
		e.names[p.Name] = v.shown()
	case KindBool:
		e.names[p.Name] = v.num.mant != 0
	case KindBits:
		bits := make(map[string]any, len(v.names))
		for bit, name := range v.names {
			bits[name] = v.num.mant>>bit&1 != 0
		}
		e.names[p.Name] = bits
	default:
		e.names[p.Name] = v.String()
	}
}

// run computes the result of what was set.
func (e *evaluator) run() (Value, error) {
	e.failed = nil
	x, err := e.vm.Run(e.code, e.names)
	if err == nil {
		err = e.failed
	}
	if err != nil {
		if _, ok := errors.AsType[*Invalid](err); ok {
			return Value{}, err
		}
		return Value{}, &Invalid{Reason: "cannot be computed", Detail: firstLine(err.Error())}
	}
	switch x := x.(type) {
	case float64:
		return fifteenDigits(x)
	case int:
		return IntValue(int64(x)), nil
	case bool:
		return BoolValue(x), nil
	case string:
		if len(x) > maxResult {
			return Value{}, errLong
		}
		return StringValue(x), nil
	}
	return Value{}, errNoValue
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// fifteenDigits rounds to what a float holds for sure.
func fifteenDigits(x float64) (Value, error) {
	var buf [32]byte
	n, err := parseNumber(strconv.AppendFloat(buf[:0], x, 'e', 14, 64))
	if err == nil {
		return numberValue(n), nil
	}
	if v := FloatValue(x); !v.IsNull() {
		return v, nil
	}
	return Value{}, errNaN
}

// A computedSource is where a computed point is found.
type computedSource struct{ *Program }

func (s computedSource) String() string { return "computed" }

var _ devices.Source = computedSource{}

// NewComputed makes a point of a program; more can be said of it by whoever
// called.
func NewComputed(name string, p *Program) *Point {
	point := &Point{Point: &devices.Point{Name: name, Source: computedSource{p}}, FromText: true, Program: p}
	if p != nil {
		point.Type = p.result
	}
	return point
}
