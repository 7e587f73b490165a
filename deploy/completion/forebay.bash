# bash completion for forebay. Made by 'forebay completion bash': do not edit.

# Asks the cluster, for two seconds at most.
_forebay_ask() {
  timeout -k 1 2 "${words[0]/#\~/$HOME}" ${peers:+--peers "$peers"} -q --timeout-ms 1500 "$@" 2>/dev/null </dev/null
}

# Offers the words of $1.
_forebay_of() {
  mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur")
}

# Offers the lines of stdin, each between $1 and $2. Not by compgen -W, which would expand what the cluster says.
_forebay_lines() {
  local line
  while IFS= read -r line; do
    printf -v line '%q' "$1$line"
    [[ $line$2 == "$cur"* ]] && COMPREPLY+=("$line$2")
  done
}

_forebay_ns() {
  _forebay_lines '' '' < <(_forebay_ask ns list)
}

# NS/ first, then the entries of the directory that is typed so far.
_forebay_key() {
  compopt -o nospace 2>/dev/null
  if [[ $cur == */* ]]; then
    _forebay_lines "${cur%%/*}/" '' < <(_forebay_ask ls "${cur%/*}" --limit 200)
  else
    _forebay_lines '' / < <(_forebay_ask ns list)
  fi
}

_forebay_words() {
  local cur prev command='' peers='' position=0 i word words
  read -ra words <<<"${COMP_LINE:0:COMP_POINT}"
  [[ ${COMP_LINE:COMP_POINT-1:1} == ' ' ]] && words+=('')
  cur=${words[-1]} prev=${words[-2]}
  # The command is the first one or two words that are no options; position counts the words behind it.
  for ((i = 1; i < ${#words[@]} - 1; i++)); do
    word=${words[i]}
    case "$command $word" in
    *' --peers='*) peers=${word#*=} ;;
    *' --peers' | *' -P' | *' --config' | *' -c' | *' --timeout-ms' | 'ring --locate' | 'ring -l' | 'ring --offset' | 'ring -o' | 'ns create --origin' | 'ns create -o' | 'ns create --ack' | 'ns create --block-size' | 'ns create -b' | 'ns create --attr-ttl-ms' | 'ns create --version' | 'ls --limit' | 'ls -l' | 'get --output' | 'get -o' | 'get --offset' | 'get --length' | 'prestage --target' | 'prestage -t' | 'prestage --parallel' | 'verify --parallel' | 'doctor --daemon-config' | 'doctor --forebayd')
      [[ $word == --peers || $word == -P ]] && peers=${words[i + 1]}
      ((i++))
      ;;
    *' -'*) ;;
    *)
      if [[ -z $command || $command == ns ]]; then
        command="${command:+$command }$word"
      else
        ((position++))
      fi
      ;;
    esac
  done
  case "$command $prev" in
  *' --peers' | *' -P')
    return
    ;;
  *' --config' | *' -c')
    compopt -o default 2>/dev/null
    return
    ;;
  *' --timeout-ms')
    return
    ;;
  'ring --locate' | 'ring -l')
    _forebay_key
    return
    ;;
  'ring --offset' | 'ring -o')
    return
    ;;
  'ns create --origin' | 'ns create -o')
    compopt -o dirnames 2>/dev/null
    return
    ;;
  'ns create --ack')
    _forebay_of 'ram origin'
    return
    ;;
  'ns create --block-size' | 'ns create -b')
    return
    ;;
  'ns create --attr-ttl-ms')
    return
    ;;
  'ns create --version')
    return
    ;;
  'ls --limit' | 'ls -l')
    return
    ;;
  'get --output' | 'get -o')
    compopt -o default 2>/dev/null
    return
    ;;
  'get --offset')
    return
    ;;
  'get --length')
    return
    ;;
  'prestage --target' | 'prestage -t')
    return
    ;;
  'prestage --parallel')
    return
    ;;
  'verify --parallel')
    return
    ;;
  'doctor --daemon-config')
    compopt -o default 2>/dev/null
    return
    ;;
  'doctor --forebayd')
    compopt -o default 2>/dev/null
    return
    ;;
  esac
  if [[ $cur == -* ]]; then
    local options=' --peers --config --timeout-ms --any-peer --json --quiet --help --version'
    case $command in
    'status') options+=' --counters --require-all' ;;
    'ring') options+=' --locate --offset' ;;
    'ns create') options+=' --origin --derived --ack --block-size --attr-ttl-ms --version' ;;
    'ns drop') options+=' --yes' ;;
    'ls') options+=' --recursive --limit' ;;
    'get') options+=' --output --offset --length' ;;
    'put') options+=' --overwrite' ;;
    'prestage') options+=' --wait --target --parallel' ;;
    'verify') options+=' --parallel' ;;
    'doctor') options+=' --daemon-config --forebayd' ;;
    'help') options+=' --man' ;;
    esac
    _forebay_of "$options"
    return
  fi
  case "$command $position" in
  ' 0') _forebay_of 'status ring ns ls stat get put invalidate prestage verify doctor completion help' ;;
  'ns 0') _forebay_of ' create list show drop' ;;
  'ns show 0') _forebay_ns ;;
  'ns drop 0') _forebay_ns ;;
  'ls 0') _forebay_key ;;
  'stat 0') _forebay_key ;;
  'get 0') _forebay_key ;;
  'put 0') _forebay_key ;;
  'put 1') compopt -o default 2>/dev/null ;;
  'invalidate 0') _forebay_key ;;
  'prestage 0') _forebay_key ;;
  'verify 0') _forebay_key ;;
  'completion 0') _forebay_of bash ;;
  'help 0') _forebay_of 'status ring ns ls stat get put invalidate prestage verify doctor completion help' ;;
  esac
}

# What is left of a ':' or '=' is a word of its own to bash: it wants the rest only.
_forebay() {
  local typed=${COMP_LINE:0:COMP_POINT}
  COMPREPLY=()
  _forebay_words
  typed=${typed##*[[:space:]]}
  if [[ $typed == *[:=]* && $COMP_WORDBREAKS == *[:=]* ]]; then
    COMPREPLY=("${COMPREPLY[@]#"${typed%"${typed##*[:=]}"}"}")
  fi
}

complete -F _forebay forebay
