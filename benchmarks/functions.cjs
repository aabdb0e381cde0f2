// Print the functions of JavaScript and TypeScript files as the TypeScript compiler parses them.
//
// node functions.cjs FOLDER_OF_THE_NPM_PACKAGE_TYPESCRIPT < list of paths
// Each line of output is a JSON list: path, name, line, whether it has a body, other name.
const fs = require('fs');
const ts = require(process.argv[2]);

function textOf(name) {
  if (!name) return '';
  return ts.isIdentifier(name) || ts.isPrivateIdentifier(name) || ts.isStringLiteral(name) ? name.text : '';
}

/** The name that a function expression gets from what it is assigned to. */
function assignedName(node) {
  let value = node;
  while (ts.isParenthesizedExpression(value.parent)) value = value.parent;
  const parent = value.parent;
  if (ts.isVariableDeclaration(parent) || ts.isPropertyAssignment(parent) || ts.isPropertyDeclaration(parent)) {
    return parent.initializer === value ? textOf(parent.name) : '';
  }
  if (ts.isBinaryExpression(parent) && parent.operatorToken.kind === ts.SyntaxKind.EqualsToken) {
    const target = parent.left;
    return ts.isIdentifier(target) ? target.text : ts.isPropertyAccessExpression(target) ? textOf(target.name) : '';
  }
  return '';
}

function namesOf(node) {
  if (ts.isConstructorDeclaration(node)) return ['constructor', ''];
  if (ts.isFunctionExpression(node) || ts.isArrowFunction(node)) {
    const [own, assigned] = [textOf(node.name), assignedName(node)];
    return own ? [own, assigned] : [assigned, ''];
  }
  const named = ts.isFunctionDeclaration(node) || ts.isMethodDeclaration(node) || ts.isAccessor(node) || ts.isMethodSignature(node);
  return [named ? textOf(node.name) : '', ''];
}

for (const path of fs.readFileSync(0, 'utf8').split('\n').filter(Boolean)) {
  const kind = /\.tsx$/.test(path) ? ts.ScriptKind.TSX : /\.[cm]?ts$/.test(path) ? ts.ScriptKind.TS : ts.ScriptKind.JSX;
  const file = ts.createSourceFile(path, fs.readFileSync(path, 'utf8'), ts.ScriptTarget.Latest, true, kind);
  const pending = [file];
  while (pending.length) {
    const node = pending.pop();
    const [name, alias] = namesOf(node);
    if (name) {
      const start = (node.name || node).getStart();
      const line = file.getLineAndCharacterOfPosition(start).line + 1;
      console.log(JSON.stringify([path, name, line, Boolean(node.body), alias]));
    }
    ts.forEachChild(node, (child) => { pending.push(child); });
  }
}
